/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * What the BPF programs and Go agree on. bpf2go generates the Go side from the types here;
 * sampler/wire_test.go holds the sizes and the enums' values equal.
 */
#ifndef HOTFRAME_WIRE_H
#define HOTFRAME_WIRE_H

#include "kernel.h"

#define MAX_USER_FRAMES 512
/* bpf_get_stack() never gives more than kernel.perf_event_max_stack, 127 by default. */
#define MAX_KERNEL_FRAMES 127

/* Why the walk of a stack ended: sampler.StopReason. */
enum stop_reason {
	STOP_NONE,
	STOP_ROOT,
	STOP_FP_END,
	STOP_FP_INVALID,
	STOP_FP_UNREADABLE,
	STOP_RA_INVALID,
	STOP_DEPTH,
	STOP_COMPAT,
	STOP_NO_REGS,
	STOP_KERNEL,
	STOP_KERNEL_DEPTH,
	STOP_KERNEL_ERROR,
	STOP_NO_RULE,
	STOP_UNMAPPED,
	STOP_UNREADABLE,
	STOP_BAD_CFA,
	STOP_LOST_REGISTER,
	STOP_GO_SWITCH,
	STOP_COPY_END,
};

/* What became of a tick: the first of sampler.Outcome. */
enum outcome {
	OUTCOME_EMITTED,
	OUTCOME_IDLE,
	OUTCOME_FILTERED,
	OUTCOME_LOST_RING,
	OUTCOME_COUNT,
};

enum record_type {
	RECORD_STACK = 1,
	RECORD_SAMPLE = 2,
	RECORD_DEFERRED = 3,
};

/* Defines the stack that samples after it name by id. It precedes them in the ring. */
struct stack_record {
	u32 type; /* RECORD_STACK */
	u32 unused;
	u64 id; /* never 0 */
	/* Then the words of the stack: frames << 8 | stop_reason, and the frames, leaf first. */
};

struct sample_record {
	u32 type; /* RECORD_SAMPLE */
	u32 cpu;
	u64 time; /* CLOCK_MONOTONIC, ns */
	u64 period; /* of the event, in its units */
	u64 cgroup; /* cgroup v2 id */
	u64 kernel_stack; /* id of a stack_record, 0 = none */
	u64 user_stack;
	u32 pid;
	u32 tid;
	u8 comm[16];
};

/*
 * A sample whose user stack is left to user space, because the process or one of its files was not
 * known here yet: the registers and a copy of the stack. It goes into a ring of its own.
 */
#define STACK_PAGE 4096
#define STACK_PAGES 5

struct deferred_record {
	struct sample_record sample; /* type RECORD_DEFERRED, user_stack 0 */
	u64 ip, sp, fp, lr; /* lr: arm64 */
	u64 gpr[17]; /* by DWARF number: amd64 rax to r15 and rip, arm64 x0 to x16 */
	u64 stack_start; /* address of stack[0]: sp rounded down to STACK_PAGE */
	u32 stack_size; /* bytes of stack that could be read, whole pages */
	u32 unused;
	u8 stack[STACK_PAGES * STACK_PAGE];
};

/*
 * Unwind tables and the executable mappings of processes lie in arenas of 1 MiB that user space
 * writes through mmap. An arena pointer is arena << ARENA_BITS | byte offset; 0 points nowhere. What is
 * pointed to lies within one arena and is aligned to 8 bytes.
 */
#define ARENA_BITS 20
#define ARENA_SIZE (1 << ARENA_BITS)
#define MAX_ARENAS 256

/* The value of address_spaces, by pid: where the process's ranges are, sorted, not overlapping. */
struct address_space {
	u32 ranges; /* arena pointer to struct range[count] */
	u32 count; /* at most MAX_RANGES */
};

#define MAX_RANGES 16384

enum range_kind {
	RANGE_FRAMES, /* no table: walked by frame pointers */
	RANGE_TABLE,
	RANGE_PENDING, /* the table is being made: the stack is left to user space */
};

/* One executable mapping. */
struct range {
	u64 start, end; /* [start, end) */
	u64 bias; /* address - bias = pc, as unwind.Row has it */
	u32 table; /* arena pointer to a struct table */
	u32 kind; /* enum range_kind */
};

/*
 * An unwind.Table, cut at every 64 KiB of code. Each page's rows begin with one for its first
 * byte, so that the search always ends at a row.
 */
struct table_page {
	u32 rows; /* arena pointer to u16 pc[count], rounded up to 4 bytes, then u32 rule[count] */
	u32 count; /* 0: no rule in this page */
};

struct table {
	u32 pages;
	u32 unused;
	/* Then struct table_page[pages], by pc >> 16. */
};

/* One per CPU. ticks is the sum of outcomes whenever no tick is being handled. */
struct tick_counts {
	u64 ticks;
	u64 outcomes[OUTCOME_COUNT];
};

#endif
