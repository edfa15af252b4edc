// SPDX-License-Identifier: MIT OR GPL-2.0
//go:build ignore

/*
 * The sampling program: one tick of a perf event becomes one sample_record in the ring. The
 * stacks are sent once each (struct stack_record) and named by id from then on.
 *
 * Upstream: perf events opened by sampler/. Downstream: the ring, read by sampler/bpf.go.
 * Runs on Linux 5.10 and newer, in interrupt or NMI context. The kernel never nests it on one
 * CPU (bpf_prog_active in bpf_overflow_handler()), so per-CPU scratch memory has one user.
 */
#include "wire.h"

/* Set before load. */
const volatile u32 max_user_frames = MAX_USER_FRAMES;
const volatile u8 want_kernel = 1;
const volatile u8 want_user = 1;
const volatile u8 want_idle = 0;

/*
 * The generation of stack ids, their top 16 bits. User space bumps it, waits until no program
 * can still see the old one, and then deletes the old generation's chunks.
 */
volatile u32 stack_generation = 1;

/* A stack is kept in chunks of equal size, so that short ones take little room. */
#define CHUNK_WORDS 64
#define MAX_CHUNKS ((MAX_USER_FRAMES + 1 + CHUNK_WORDS - 1) / CHUNK_WORDS)
/* Different stacks with one hash take neighbouring ids. */
#define MAX_PROBES 4

struct chunk_key {
	u64 id;
	u32 index;
	u32 unused;
};

struct chunk {
	u64 words[CHUNK_WORDS];
};

/* words[0] is frames << 8 | stop_reason; what is behind the last frame is left over and ignored. */
struct stack {
	struct stack_record header;
	u64 words[MAX_CHUNKS * CHUNK_WORDS];
};

enum half { HALF_USER, HALF_KERNEL };

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20); /* resized before load */
} ring SEC(".maps");

/* Preallocated: insertion from NMI context must not allocate. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, struct chunk_key);
	__type(value, struct chunk);
} chunks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, u32);
	__type(value, struct stack);
} scratch SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct tick_counts);
} counts SEC(".maps");

struct user_regs {
	u64 ip, sp, fp;
	u32 stop; /* STOP_NONE when the registers are good */
};

static __always_inline struct stack *scratch_stack(u32 half)
{
	return bpf_map_lookup_elem(&scratch, &half);
}

/* The frame record both architectures' ABIs put where the frame pointer points. */
struct frame_record {
	u64 fp, ra;
};

/*
 * walk_user follows frame pointers from the registers given and fills the user scratch stack.
 * Each record must lie above the one before it, so that a chain ends and never loops.
 */
__noinline int walk_user(u64 ip, u64 sp, u64 fp)
{
	struct stack *s = scratch_stack(HALF_USER);
	u32 stop = STOP_DEPTH, n = 1;

	if (!s)
		return 0;
	s->words[1] = ip;
	for (u32 i = 1; i < MAX_USER_FRAMES; i++) {
		struct frame_record f;

		if (i >= max_user_frames)
			break;
		if (!fp) {
			stop = STOP_FP_END;
			break;
		}
		if (fp < sp || (fp & 7)) {
			stop = STOP_FP_INVALID;
			break;
		}
		if (bpf_probe_read_user(&f, sizeof(f), (void *)fp)) {
			stop = STOP_FP_UNREADABLE;
			break;
		}
		f.ra = STRIP_PAC(f.ra);
		if (!f.ra) {
			stop = STOP_FP_END;
			break;
		}
		if (f.ra < 4096 || f.ra >= TASK_SIZE_USER) {
			stop = STOP_RA_INVALID;
			break;
		}
		s->words[i + 1] = f.ra;
		n = i + 1;
		sp = fp + sizeof(f);
		fp = f.fp;
	}
	s->words[0] = (u64)n << 8 | stop;
	return 1;
}

/*
 * find_user_regs gives the registers that the task had in user mode: the interrupted ones, or
 * those saved when it entered the kernel. 0 when the task has no user half.
 */
static __always_inline int find_user_regs(struct bpf_perf_event_data *ctx, struct user_regs *u)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct mm_struct *mm = 0;
	struct pt_regs saved;
	u32 flags = 0;
	u64 at;

	u->stop = STOP_NONE;
	if (user_mode(&ctx->regs)) {
		u->ip = REG_IP(&ctx->regs);
		u->sp = REG_SP(&ctx->regs);
		u->fp = REG_FP(&ctx->regs);
		if (compat_mode(&ctx->regs))
			u->stop = STOP_COMPAT;
		return 1;
	}

	if (read_field(&flags, task, flags) || (flags & PF_KTHREAD) || read_field(&mm, task, mm) || !mm)
		return 0;
	if (enum_value_exists(enum bpf_func_id, BPF_FUNC_task_pt_regs)) {
		at = bpf_task_pt_regs(bpf_get_current_task_btf());
	} else {
		/* No padding above the registers: FRED kernels, which have it, are newer than the helper. */
		if (read_field(&at, task, stack))
			return 0;
		at += THREAD_SIZE - kernel_sizeof(struct pt_regs);
	}
	if (bpf_probe_read_kernel(&saved, sizeof(saved), (void *)at))
		return 0;
	u->ip = REG_IP(&saved);
	u->sp = REG_SP(&saved);
	u->fp = REG_FP(&saved);
	if (!u->ip || !user_mode(&saved)) /* a task that never ran in user mode, as io_uring's workers */
		return 0;
	if (compat_mode(&saved))
		u->stop = STOP_COMPAT;
	return 1;
}

enum match { MATCH_ABSENT, MATCH_EQUAL, MATCH_OTHER };

/* match_stack compares the scratch stack with the one interned under id, word for word. */
__noinline int match_stack(u32 half, u64 id)
{
	struct chunk_key key = { .id = id };
	struct stack *s = scratch_stack(half);
	u32 left;

	if (!s)
		return MATCH_ABSENT;
	left = (u32)(s->words[0] >> 8) + 1;
	for (u32 i = 0; i < MAX_CHUNKS; i++) {
		struct chunk *c;

		key.index = i;
		c = bpf_map_lookup_elem(&chunks, &key);
		if (!c)
			return MATCH_ABSENT;
		for (u32 j = 0; j < CHUNK_WORDS; j++) {
			if (c->words[j] != s->words[i * CHUNK_WORDS + j])
				return MATCH_OTHER;
			if (--left == 0)
				return MATCH_EQUAL;
		}
	}
	return MATCH_OTHER;
}

/* send_stack puts the scratch stack into the ring, then makes it known under id. 0 when the ring is full. */
__noinline int send_stack(u32 half, u64 id)
{
	struct chunk_key key = { .id = id };
	struct stack *s = scratch_stack(half);
	u64 words, size;

	if (!s)
		return 0;
	words = (s->words[0] >> 8) + 1;
	size = sizeof(s->header) + words * sizeof(u64);
	barrier_var(size); /* the check below must be on the register that is passed on */
	if (size > sizeof(*s))
		return 0;
	s->header.type = RECORD_STACK;
	s->header.id = id;
	if (bpf_ringbuf_output(&ring, s, size, BPF_RB_NO_WAKEUP))
		return 0;
	/*
	 * In the ring first: whoever finds the chunks may name the id. The first chunk last: where it
	 * is, the others are. When the table is full the stack is sent again each time.
	 */
	for (u32 i = MAX_CHUNKS; i-- > 0;) {
		if (i * CHUNK_WORDS >= words)
			continue;
		key.index = i;
		if (bpf_map_update_elem(&chunks, &key, &s->words[i * CHUNK_WORDS], BPF_NOEXIST))
			break;
	}
	return 1;
}

/*
 * intern gives the id of the scratch stack, after sending the stack if it is new. 0 when the
 * ring is full. A stack whose ids are all taken by others is sent under the last each time.
 */
__noinline u64 intern(u32 half)
{
	struct stack *s = scratch_stack(half);
	u64 hash = 0xcbf29ce484222325ULL, id = 0;
	u32 words;

	if (!s)
		return 0;
	words = (u32)(s->words[0] >> 8) + 1;
	for (u32 i = 0; i < MAX_USER_FRAMES + 1; i++) {
		if (i >= words)
			break;
		hash = (hash ^ s->words[i]) * 0x9e3779b97f4a7c15ULL;
		hash ^= hash >> 29;
	}
	for (u32 probe = 0; probe < MAX_PROBES; probe++) {
		int m;

		id = (u64)(stack_generation & 0xffff) << 48 | ((hash + probe) & 0xffffffffffffULL);
		m = match_stack(half, id);
		if (m == MATCH_EQUAL)
			return id;
		if (m == MATCH_ABSENT)
			break;
	}
	return send_stack(half, id) ? id : 0;
}

/* take_kernel_stack fills the kernel scratch stack. bpf_get_stack() begins with the interrupted PC. */
static __always_inline int take_kernel_stack(struct bpf_perf_event_data *ctx)
{
	struct stack *s = scratch_stack(HALF_KERNEL);
	u32 stop = STOP_KERNEL;
	long size;
	u64 n;

	if (!s)
		return 0;
	size = bpf_get_stack(ctx, &s->words[1], MAX_KERNEL_FRAMES * sizeof(u64), 0);
	n = size > 0 ? size / sizeof(u64) : 0;
	if (n >= MAX_KERNEL_FRAMES) {
		n = MAX_KERNEL_FRAMES;
		stop = STOP_KERNEL_DEPTH;
	}
	if (!n) {
		s->words[1] = REG_IP(&ctx->regs);
		n = 1;
		stop = STOP_KERNEL_ERROR;
	}
	s->words[0] = n << 8 | stop;
	return 1;
}

static __always_inline int take_user_stack(struct bpf_perf_event_data *ctx)
{
	struct user_regs u = {};
	struct stack *s;

	if (!find_user_regs(ctx, &u))
		return 0;
	if (u.stop == STOP_NONE)
		return walk_user(u.ip, u.sp, u.fp);
	s = scratch_stack(HALF_USER);
	if (!s)
		return 0;
	s->words[0] = 1 << 8 | u.stop;
	s->words[1] = u.ip;
	return 1;
}

static __always_inline enum outcome sample(struct bpf_perf_event_data *ctx)
{
	struct sample_record r = { .type = RECORD_SAMPLE };
	u64 pid_tgid = bpf_get_current_pid_tgid();

	r.pid = pid_tgid >> 32;
	r.tid = (u32)pid_tgid;
	if (!r.tid && !want_idle)
		return OUTCOME_IDLE;
	r.time = bpf_ktime_get_ns();
	r.cpu = bpf_get_smp_processor_id();
	r.period = ctx->sample_period;
	r.cgroup = bpf_get_current_cgroup_id();
	bpf_get_current_comm(r.comm, sizeof(r.comm));

	if (want_kernel && !user_mode(&ctx->regs) && take_kernel_stack(ctx)) {
		r.kernel_stack = intern(HALF_KERNEL);
		if (!r.kernel_stack)
			return OUTCOME_LOST_RING;
	}
	if (want_user && take_user_stack(ctx)) {
		r.user_stack = intern(HALF_USER);
		if (!r.user_stack)
			return OUTCOME_LOST_RING;
	}
	if (bpf_ringbuf_output(&ring, &r, sizeof(r), BPF_RB_NO_WAKEUP))
		return OUTCOME_LOST_RING;
	return OUTCOME_EMITTED;
}

SEC("perf_event")
int on_tick(struct bpf_perf_event_data *ctx)
{
	struct tick_counts *c;
	enum outcome o;
	u32 zero = 0;

	c = bpf_map_lookup_elem(&counts, &zero);
	if (!c)
		return 0;
	c->ticks++;
	o = sample(ctx);
	if (o < OUTCOME_COUNT)
		c->outcomes[o]++;
	return 0;
}

/* bpf2go finds only types that some variable has. */
const struct wire {
	struct sample_record sample;
	struct stack_record stack;
	struct chunk_key key;
	struct tick_counts counts;
	enum record_type record_type;
	enum stop_reason stop_reason;
	enum outcome outcome;
} *wire_types;

char _license[] SEC("license") = "Dual MIT/GPL";
