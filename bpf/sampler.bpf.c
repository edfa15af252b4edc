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
const volatile u8 want_tables = 1; /* 0: frame pointers only */

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
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 21);
} deferred SEC(".maps");

/* Made as needed by user space, which maps them into its memory. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, MAX_ARENAS);
	__type(key, u32);
	__array(
		values, struct {
			__uint(type, BPF_MAP_TYPE_ARRAY);
			__uint(map_flags, BPF_F_MMAPABLE);
			__uint(max_entries, 1);
			__uint(key_size, sizeof(u32));
			__uint(value_size, ARENA_SIZE);
		});
} arenas SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, u32);
	__type(value, struct address_space);
} address_spaces SEC(".maps");

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

/* The registers of the walk's leaf, and room for the copy of its stack. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct deferred_record);
} deferral SEC(".maps");

static __always_inline struct stack *scratch_stack(u32 half)
{
	return bpf_map_lookup_elem(&scratch, &half);
}

static __always_inline u64 hash_word(u64 hash, u64 word)
{
	hash = (hash ^ word) * 0x9e3779b97f4a7c15ULL;
	return hash ^ hash >> 29;
}

#define HASH_SEED 0xcbf29ce484222325ULL

/*
 * Loops come in two forms. repeat() is bpf_loop(), which the verifier follows once; kernels before
 * 5.17 unroll() them, which takes it a hundred times longer. A step is given its index and the
 * loop's state, and returns 1 to end the loop.
 */
#define repeat(count, step, state) bpf_loop(count, step, state, 0)
#define unroll(count, step, state) \
	for (u32 i_ = 0; i_ < (count); i_++) { \
		if (step(i_, state)) \
			break; \
	}

/* finish_stack completes the scratch stack of a half. Its hash has taken in the frames. */
static __always_inline u64 finish_stack(struct stack *s, u64 frames, u32 stop, u64 hash)
{
	s->words[0] = frames << 8 | stop;
	return hash_word(hash, s->words[0]);
}

#include "walk.h"

enum match { MATCH_EQUAL, MATCH_OTHER, MATCH_ABSENT };

struct comparison {
	u64 id;
	u32 half;
	u32 words; /* of the stack */
	u32 match; /* the result */
};

/* compare_chunk compares one chunk of the scratch stack. The chunks' words behind the stack's are left over. */
static __always_inline int compare_chunk(u32 i, struct comparison *m)
{
	struct chunk_key key = { .id = m->id, .index = i };
	struct stack *s = scratch_stack(m->half);
	struct chunk *c;
	u64 at = i;

	m->match = MATCH_ABSENT;
	barrier_var(at);
	if (!s || at >= MAX_CHUNKS)
		return 1;
	at *= CHUNK_WORDS;
	c = bpf_map_lookup_elem(&chunks, &key);
	if (!c)
		return 1;
	m->match = MATCH_EQUAL;
	for (u32 j = 0; j < CHUNK_WORDS; j++) {
		if (at + j >= m->words)
			return 1;
		if (c->words[j] != s->words[at + j]) {
			m->match = MATCH_OTHER;
			return 1;
		}
	}
	return at + CHUNK_WORDS >= m->words;
}

static int compare_one(u32 i, void *state)
{
	return compare_chunk(i, state);
}

/*
 * These compare the scratch stack with the one interned under id, word for word. They are global
 * functions, with numbers for arguments, so that they are verified once and not for every call.
 */
__noinline int match_modern(u32 half, u32 words, u64 id)
{
	struct comparison m = { .id = id, .half = half, .words = words };

	repeat(MAX_CHUNKS, compare_one, &m);
	return m.match;
}

__noinline int match_legacy(u32 half, u32 words, u64 id)
{
	struct comparison m = { .id = id, .half = half, .words = words };

	unroll(MAX_CHUNKS, compare_chunk, &m);
	return m.match;
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
static __always_inline u64 intern(u32 half, u64 hash, int modern)
{
	struct stack *s = scratch_stack(half);
	u64 id = 0;
	u32 words;

	if (!s)
		return 0;
	words = (u32)(s->words[0] >> 8) + 1;
	for (u32 probe = 0; probe < MAX_PROBES; probe++) {
		int m;

		id = (u64)(stack_generation & 0xffff) << 48 | ((hash + probe) & 0xffffffffffffULL);
		m = modern ? match_modern(half, words, id) : match_legacy(half, words, id);
		if (m == MATCH_EQUAL)
			return id;
		if (m == MATCH_ABSENT)
			break;
	}
	return send_stack(half, id) ? id : 0;
}

__noinline u64 intern_modern(u32 half, u64 hash)
{
	return intern(half, hash, 1);
}

__noinline u64 intern_legacy(u32 half, u64 hash)
{
	return intern(half, hash, 0);
}

struct hashing {
	u64 hash;
	u32 frames;
};

static __always_inline int hash_step(u32 i, struct hashing *h)
{
	struct stack *s = scratch_stack(HALF_KERNEL);
	u64 at = i;

	if (!s || i >= h->frames)
		return 1;
	barrier_var(at);
	if (at >= MAX_KERNEL_FRAMES)
		return 1;
	h->hash = hash_word(h->hash, s->words[at + 1]);
	return 0;
}

static int hash_one(u32 i, void *state)
{
	return hash_step(i, state);
}

/*
 * take_kernel_stack fills the kernel scratch stack and returns its hash. bpf_get_stack() begins with
 * the interrupted PC.
 */
static __always_inline u64 take_kernel_stack(struct bpf_perf_event_data *ctx, int modern)
{
	struct stack *s = scratch_stack(HALF_KERNEL);
	struct hashing h = { .hash = HASH_SEED };
	u32 stop = STOP_KERNEL;
	long size;

	if (!s)
		return 0;
	size = bpf_get_stack(ctx, &s->words[1], MAX_KERNEL_FRAMES * sizeof(u64), 0);
	h.frames = size > 0 ? size / sizeof(u64) : 0;
	if (h.frames >= MAX_KERNEL_FRAMES) {
		h.frames = MAX_KERNEL_FRAMES;
		stop = STOP_KERNEL_DEPTH;
	}
	if (!h.frames) {
		s->words[1] = REG_IP(&ctx->regs);
		h.frames = 1;
		stop = STOP_KERNEL_ERROR;
	}
	if (modern)
		repeat(MAX_KERNEL_FRAMES, hash_one, &h);
	else
		unroll(MAX_KERNEL_FRAMES, hash_step, &h);
	return finish_stack(s, h.frames, stop, h.hash);
}

static __always_inline u64 intern_half(u32 half, u64 hash, int modern)
{
	return modern ? intern_modern(half, hash) : intern_legacy(half, hash);
}

static __always_inline enum outcome sample(struct bpf_perf_event_data *ctx, int modern)
{
	struct sample_record r = { .type = RECORD_SAMPLE };
	u64 pid_tgid = bpf_get_current_pid_tgid();
	u64 hash;

	r.pid = pid_tgid >> 32;
	r.tid = (u32)pid_tgid;
	if (!r.tid && !want_idle)
		return OUTCOME_IDLE;
	r.time = bpf_ktime_get_ns();
	r.cpu = bpf_get_smp_processor_id();
	r.period = ctx->sample_period;
	r.cgroup = bpf_get_current_cgroup_id();
	bpf_get_current_comm(r.comm, sizeof(r.comm));

	if (want_kernel && !user_mode(&ctx->regs)) {
		r.kernel_stack = intern_half(HALF_KERNEL, take_kernel_stack(ctx, modern), modern);
		if (!r.kernel_stack)
			return OUTCOME_LOST_RING;
	}
	if (want_user && begin_walk(ctx, modern)) {
		hash = walk_user(&r, modern);
		if (!hash)
			return OUTCOME_EMITTED;
		r.user_stack = intern_half(HALF_USER, hash, modern);
		if (!r.user_stack)
			return OUTCOME_LOST_RING;
	}
	if (bpf_ringbuf_output(&ring, &r, sizeof(r), BPF_RB_NO_WAKEUP))
		return OUTCOME_LOST_RING;
	return OUTCOME_EMITTED;
}

static __always_inline int tick(struct bpf_perf_event_data *ctx, int modern)
{
	struct tick_counts *c;
	enum outcome o;
	u32 zero = 0;

	c = bpf_map_lookup_elem(&counts, &zero);
	if (!c)
		return 0;
	c->ticks++;
	o = sample(ctx, modern);
	if (o < OUTCOME_COUNT)
		c->outcomes[o]++;
	return 0;
}

/* For Linux 5.17 and newer. It has no field of a kernel type, so the kernel's BTF is not needed to load it. */
SEC("perf_event")
int on_tick(struct bpf_perf_event_data *ctx)
{
	return tick(ctx, 1);
}

SEC("perf_event")
int on_tick_legacy(struct bpf_perf_event_data *ctx)
{
	return tick(ctx, 0);
}

/* bpf2go finds only types that some variable has. */
const struct wire {
	struct sample_record sample;
	struct stack_record stack;
	struct chunk_key key;
	struct tick_counts counts;
	struct deferred_record deferred;
	struct address_space space;
	struct range range;
	struct table_page page;
	struct table table;
	enum range_kind range_kind;
	enum record_type record_type;
	enum stop_reason stop_reason;
	enum outcome outcome;
} *wire_types;

char _license[] SEC("license") = "Dual MIT/GPL";
