// Package bpf holds the sampling program, the wire format it shares with Go,
// and their compiled forms; nothing else.
//
// Downstream: sampler loads the program and reads its ring.
package bpf

// The objects are committed, so that building needs no clang. Little-endian
// targets only: amd64 and arm64.
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target amd64,arm64 -cflags "-O2 -g -Wall -Wextra -Werror -std=gnu11" -type sample_record -type stack_record -type tick_counts -type deferred_record -type address_space -type range -type range_kind -type table_page -type table -type stop_reason -type outcome -type record_type -output-stem sampler Sampler sampler.bpf.c
