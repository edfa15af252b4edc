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

/* One per CPU. ticks is the sum of outcomes whenever no tick is being handled. */
struct tick_counts {
	u64 ticks;
	u64 outcomes[OUTCOME_COUNT];
};

#endif
