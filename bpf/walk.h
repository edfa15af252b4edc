/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * The walk of a user stack: by unwind tables, and by frame pointers where there are none. The rules
 * are those of unwind.Rule, and next_frame() does as unwind.Step does, case by case.
 */
#ifndef HOTFRAME_WALK_H
#define HOTFRAME_WALK_H

/* unwind.Kind */
enum rule_kind {
	KIND_NONE,
	KIND_END,
	KIND_SP,
	KIND_FP,
	KIND_DEREF_SP,
	KIND_DEREF_FP,
	KIND_REG,
	KIND_RA_REG,
	KIND_PLT,
	KIND_SIGNAL,
	KIND_FRAME,
	KIND_LR,
	KIND_GO_SWITCH,
	KIND_DEREF_INDEX,
};

/* unwind.GoSwitchFrame, in the offset of a KIND_GO_SWITCH */
#define GO_SWITCH_FRAME 1

/* Values of a rule's frame field, in words below the CFA else. */
#define FRAME_KEPT 0
#define FRAME_AT_FP 0xffe
#define FRAME_LOST 0xfff

struct walk {
	u64 ip, sp, fp, lr;
	u64 hash;
	u32 frames;
	u32 stop;
	u32 leaf; /* ip is an instruction that was interrupted, not a return address */
	u32 known; /* the process's ranges are */
	u32 defer; /* something that the walk needs is not known here yet */
	struct address_space space;
	struct range range; /* that ip is in, while it is; frames that follow each other mostly share one */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct walk);
} walks SEC(".maps");

static __always_inline struct walk *walk_state(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&walks, &zero);
}

static __always_inline void *arena(u32 ptr)
{
	u32 index = ptr >> ARENA_BITS, zero = 0;
	void *inner = bpf_map_lookup_elem(&arenas, &index);

	return inner ? bpf_map_lookup_elem(inner, &zero) : 0;
}

/* What an arena pointer points to, given its arena. The mask holds the verifier; pointers are aligned. */
#define ARENA_READ(base, ptr, type) (*(type *)((base) + ((u64)(ptr) & (ARENA_SIZE - sizeof(type)))))

/*
 * All ones if a <= b, else 0; both below 2^63. A comparison would be a branch, each way of which the
 * verifier follows; the barrier keeps the compiler from making it one.
 */
static __always_inline u64 mask_le(u64 a, u64 b)
{
	u64 mask = (s64)(a - b - 1) >> 63;

	barrier_var(mask);
	return mask;
}

/*
 * find_range gives an arena pointer to the range that holds an address, or 0. Its search and the
 * next one are of fixed length and without branches.
 */
__noinline u64 find_range(u32 ranges, u32 count, u64 addr)
{
	void *base = arena(ranges);
	u64 below = 0; /* ranges that end at or before addr */
	u64 at;

	if (!base || count > MAX_RANGES || addr >> 63)
		return 0;
	at = ranges & (ARENA_SIZE - 1);
#pragma unroll
	for (u64 step = MAX_RANGES / 2; step; step >>= 1) {
		u64 end = ARENA_READ(base, at + (below + step - 1) * sizeof(struct range) + 8, u64);

		below += step & mask_le(below + step, count) & mask_le(end, addr);
	}
	if (below >= count)
		return 0;
	at += below * sizeof(struct range);
	if (ARENA_READ(base, at, u64) > addr)
		return 0;
	return (ranges & ~(ARENA_SIZE - 1)) + at;
}

/* find_rule gives the rule of a table for a pc relative to it, KIND_NONE where there is none. */
__noinline u64 find_rule(u32 table, u64 pc)
{
	void *base = arena(table);
	u64 page = pc >> 16, key = pc & 0xffff, at, below = 0;
	u32 rows, count;

	if (!base || page >= ARENA_READ(base, table, u32))
		return KIND_NONE;
	at = table + sizeof(struct table) + page * sizeof(struct table_page);
	rows = ARENA_READ(base, at, u32);
	count = ARENA_READ(base, at + 4, u32);
	if (!count || count > 0xffff)
		return KIND_NONE;
	base = arena(rows);
	if (!base)
		return KIND_NONE;
	at = rows & (ARENA_SIZE - 1);
#pragma unroll
	for (u64 step = 0x8000; step; step >>= 1) {
		u64 first = ARENA_READ(base, at + (below + step - 1) * 2, u16);

		below += step & mask_le(below + step, count) & mask_le(first, key);
	}
	if (!below)
		return KIND_NONE;
	at += ((count * 2 + 3) & ~3ULL) + (below - 1) * 4;
	return ARENA_READ(base, at, u32);
}

/* enter_range makes w->range the one that holds pc. 0 when no range does. */
static __always_inline int enter_range(struct walk *w, u64 pc)
{
	u64 ptr;
	void *base;

	if (pc >= w->range.start && pc < w->range.end)
		return 1;
	ptr = find_range(w->space.ranges, w->space.count, pc);
	if (!ptr)
		return 0;
	base = arena(ptr);
	if (!base)
		return 0;
	w->range.start = ARENA_READ(base, ptr, u64);
	w->range.end = ARENA_READ(base, ptr + 8, u64);
	w->range.bias = ARENA_READ(base, ptr + 16, u64);
	w->range.table = ARENA_READ(base, ptr + 24, u32);
	w->range.kind = ARENA_READ(base, ptr + 28, u32);
	return 1;
}

/* The frame record both architectures' ABIs put where the frame pointer points. */
struct frame_record {
	u64 fp, ra;
};

static __always_inline u32 set_caller(struct walk *w, u64 ip, u64 sp, u64 fp)
{
	if (ip < 4096 || ip >= TASK_SIZE_USER)
		return STOP_RA_INVALID;
	w->ip = ip;
	w->sp = sp;
	w->fp = fp;
	w->leaf = 0;
	return 0;
}

/*
 * frame_pointer_step goes to the caller by the frame pointer. Each frame record must lie above the
 * one before it, so that a chain ends and never loops.
 */
static __always_inline u32 frame_pointer_step(struct walk *w)
{
	struct frame_record f;

	if (!w->fp)
		return STOP_FP_END;
	if (w->fp < w->sp || (w->fp & 7))
		return STOP_FP_INVALID;
	if (bpf_probe_read_user(&f, sizeof(f), (void *)w->fp))
		return STOP_FP_UNREADABLE;
	f.ra = STRIP_PAC(f.ra);
	if (!f.ra)
		return STOP_FP_END;
	return set_caller(w, f.ra, w->fp + sizeof(f), f.fp);
}

static __always_inline struct deferred_record *leaf_regs(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&deferral, &zero);
}

/* signal_step takes all registers from where the kernel saved them, above the stack pointer. */
static __always_inline u32 signal_step(struct walk *w)
{
	struct deferred_record *l = leaf_regs();
	struct signal_regs *s;

	if (!l)
		return STOP_UNREADABLE;
	s = (void *)l->stack; /* too large for the stack here */
	if (bpf_probe_read_user(s, sizeof(*s), (void *)(w->sp + SIGNAL_REGS)))
		return STOP_UNREADABLE;
	COPY_GPR(l->gpr, s);
	if (set_caller(w, REG_IP(s), REG_SP(s), REG_FP(s)))
		return STOP_RA_INVALID;
	w->lr = REG_LR(s);
	w->leaf = 1;
	return 0;
}

static __always_inline u64 leaf_gpr(u64 number)
{
	struct deferred_record *l = leaf_regs();

	return l ? l->gpr[number & 15] : 0;
}

/*
 * go_switch_step follows Go's runtime back to the stack that it came from, where the frame pointer
 * leads there. That stack may be anywhere; the number of frames bounds the walk.
 */
static __always_inline u32 go_switch_step(struct walk *w, u64 offset, u64 frame)
{
	struct frame_record f;
	u64 cfa = w->fp + 8 * frame;

	if (offset != GO_SWITCH_FRAME)
		return STOP_GO_SWITCH;
	if (bpf_probe_read_user(&f, sizeof(f), (void *)w->fp))
		return STOP_UNREADABLE;
#if defined(__TARGET_ARCH_x86)
	if (frame != 2 && bpf_probe_read_user(&f.ra, sizeof(f.ra), (void *)(cfa - 8)))
		return STOP_UNREADABLE;
#endif
	f.ra = STRIP_PAC(f.ra);
	if (!f.ra)
		return STOP_ROOT;
	return set_caller(w, f.ra, cfa, f.fp);
}

/* next_frame goes to the caller by a rule. Returns why it cannot, else 0. */
static __always_inline u32 next_frame(struct walk *w, u32 rule)
{
	u32 kind = rule & 15, frame = rule >> 20;
	u64 offset = rule >> 4 & 0xffff, cfa, at, fp = w->fp;
	struct frame_record f = {};

	switch (kind) {
	case KIND_END:
		return STOP_ROOT;
	case KIND_SP:
	case KIND_LR:
		cfa = w->sp + 8 * offset;
		break;
	case KIND_FP:
		cfa = w->fp + 8 * offset;
		break;
	case KIND_FRAME:
		cfa = w->fp + 16;
		frame = 2;
		break;
	case KIND_DEREF_SP:
	case KIND_DEREF_FP:
		at = (kind == KIND_DEREF_SP ? w->sp : w->fp) + 8 * ((s64)(offset << 52) >> 52);
		if (bpf_probe_read_user(&cfa, sizeof(cfa), (void *)at))
			return STOP_UNREADABLE;
		cfa += 8 * (offset >> 12);
		break;
	case KIND_PLT:
		cfa = w->sp + ((w->ip & 15) >= offset ? 16 : 8);
		break;
	case KIND_REG:
	case KIND_RA_REG:
		if (!w->leaf)
			return STOP_LOST_REGISTER;
		cfa = (kind == KIND_REG ? leaf_gpr(offset) : w->sp) + 8 * (offset >> 4);
		break;
	case KIND_SIGNAL:
		return signal_step(w);
	case KIND_GO_SWITCH:
		return go_switch_step(w, offset, frame);
	case KIND_DEREF_INDEX:
		if (!w->leaf)
			return STOP_LOST_REGISTER;
		at = w->sp + 8 * (offset >> 8) + 8 * leaf_gpr(offset);
		if (bpf_probe_read_user(&cfa, sizeof(cfa), (void *)at))
			return STOP_UNREADABLE;
		cfa += 8 * (offset >> 4 & 15);
		break;
	default:
		return STOP_NO_RULE;
	}
	if (cfa <= w->sp && !w->leaf)
		return STOP_BAD_CFA;

	if (kind == KIND_RA_REG) {
		f.ra = leaf_gpr(offset);
#if defined(__TARGET_ARCH_arm64)
	} else if (kind == KIND_LR) {
		if (bpf_probe_read_user(&f.ra, sizeof(f.ra), (void *)(cfa - 8ULL * frame)))
			return STOP_UNREADABLE;
		frame = FRAME_KEPT;
	} else if (frame == FRAME_KEPT || frame == FRAME_LOST) {
		if (!w->leaf)
			return STOP_LOST_REGISTER;
		f.ra = w->lr;
	} else {
		if (bpf_probe_read_user(&f, sizeof(f), (void *)(cfa - 8ULL * frame)))
			return STOP_UNREADABLE;
		fp = f.fp;
		frame = FRAME_KEPT;
#else
	} else if (frame == 2) { /* as in every function that has a frame pointer: both in one read */
		if (bpf_probe_read_user(&f, sizeof(f), (void *)(cfa - 16)))
			return STOP_UNREADABLE;
		fp = f.fp;
		frame = FRAME_KEPT;
	} else {
		if (bpf_probe_read_user(&f.ra, sizeof(f.ra), (void *)(cfa - 8)))
			return STOP_UNREADABLE;
#endif
	}
	if (frame == FRAME_LOST) {
		fp = 0;
	} else if (frame != FRAME_KEPT) {
		at = frame == FRAME_AT_FP ? w->fp : cfa - 8ULL * frame;
		if (bpf_probe_read_user(&fp, sizeof(fp), (void *)at))
			return STOP_UNREADABLE;
	}
	f.ra = STRIP_PAC(f.ra);
	if (!f.ra)
		return STOP_ROOT;
	return set_caller(w, f.ra, cfa, fp);
}

/* caller goes to the caller by what is known of the code. Returns why it cannot, else 0. */
static __always_inline u32 caller(struct walk *w)
{
	u64 pc = w->leaf ? w->ip : w->ip - 1;
	u32 rule;

	if (!w->known)
		return frame_pointer_step(w);
	if (!enter_range(w, pc)) {
		w->defer |= w->leaf; /* mapped since, or left by an exec */
		return STOP_UNMAPPED;
	}
	if (w->range.kind == RANGE_PENDING) {
		w->defer = 1;
		return STOP_NO_RULE;
	}
	if (w->range.kind == RANGE_FRAMES)
		return frame_pointer_step(w);
	rule = find_rule(w->range.table, pc - w->range.bias);
	if ((rule & 15) == KIND_NONE)
		return frame_pointer_step(w) ? STOP_NO_RULE : 0;
	return next_frame(w, rule);
}

/*
 * walk_step appends the caller of the frame that the walk is at; 1 ends the walk. It is a global
 * function and its state is in a map, so that the verifier goes through it once and not for each frame.
 */
__noinline int walk_step(u32 i)
{
	struct stack *s = scratch_stack(HALF_USER);
	struct walk *w = walk_state();
	u64 at = i;

	barrier_var(at); /* the verifier is to see the check below, on the register that indexes */
	if (!s || !w)
		return 1;
	w->stop = STOP_DEPTH;
	if (at >= MAX_USER_FRAMES - 1 || at + 1 >= max_user_frames)
		return 1;
	w->stop = caller(w);
	if (w->stop)
		return 1;
	s->words[at + 2] = w->ip;
	w->hash = hash_word(w->hash, w->ip);
	w->frames = at + 2;
	return 0;
}

static int walk_one(u32 i, void *unused __attribute__((unused)))
{
	int end = walk_step(i);

	barrier_var(end); /* the compiler sees that it is 0 or 1, the verifier does not */
	return end ? 1 : 0;
}

/* saved_regs is where the kernel saved the user registers of the current task, 0 if it has none. */
static __always_inline u64 saved_regs(int modern)
{
	struct task_struct *task;
	struct mm_struct *mm = 0;
	u64 stack;

	if (modern)
		return bpf_task_pt_regs(bpf_get_current_task_btf());
	task = (void *)bpf_get_current_task();
	if (read_field(&mm, task, mm) || !mm || read_field(&stack, task, stack))
		return 0;
	/* No padding above the registers: FRED kernels, which have it, are newer than the helper. */
	return stack + THREAD_SIZE - kernel_sizeof(struct pt_regs);
}

/*
 * begin_walk sets out from the registers that the task had in user mode: the interrupted ones, or
 * those saved when it entered the kernel. 0 when the task has no user half: a kernel thread's saved
 * registers are zero, as are those of io_uring's workers.
 */
static __always_inline int begin_walk(struct bpf_perf_event_data *ctx, int modern)
{
	struct deferred_record *l = leaf_regs();
	struct walk *w = walk_state();
	struct pt_regs *saved;
	int compat;
	u64 at;

	if (!l || !w)
		return 0;
	if (user_mode(&ctx->regs)) {
		w->ip = REG_IP(&ctx->regs);
		w->sp = REG_SP(&ctx->regs);
		w->fp = REG_FP(&ctx->regs);
		w->lr = REG_LR(&ctx->regs);
		COPY_GPR(l->gpr, &ctx->regs);
		compat = compat_mode(&ctx->regs);
		/* Else one load serves both branches, from a pointer that may be the context: not permitted. */
		barrier();
	} else {
		saved = (void *)l->stack;
		at = saved_regs(modern);
		if (!at || bpf_probe_read_kernel(saved, sizeof(*saved), (void *)at) || !REG_IP(saved) ||
		    !user_mode(saved))
			return 0;
		w->ip = REG_IP(saved);
		w->sp = REG_SP(saved);
		w->fp = REG_FP(saved);
		w->lr = REG_LR(saved);
		COPY_GPR(l->gpr, saved);
		compat = compat_mode(saved);
	}
	l->ip = w->ip;
	l->sp = w->sp;
	l->fp = w->fp;
	l->lr = w->lr;
	w->stop = compat ? STOP_COMPAT : STOP_NONE;
	w->leaf = 1;
	w->frames = 1;
	w->known = 0;
	w->defer = 0;
	w->range.start = 0;
	w->range.end = 0;
	return 1;
}

/*
 * defer_stack leaves the user stack to user space: it sends the registers with a copy of the stack.
 * 0 when there is no room in the ring, or nothing to read.
 */
static __always_inline int defer_stack(const struct sample_record *r)
{
	struct deferred_record *l = leaf_regs();
	u64 size = 0;

	if (!l)
		return 0;
	l->sample = *r;
	l->sample.type = RECORD_DEFERRED;
	l->stack_start = l->sp & ~(STACK_PAGE - 1ULL);
	/* By pages: a read fails as a whole if one of its pages is absent. */
#pragma unroll
	for (int i = 0; i < STACK_PAGES; i++) {
		if (bpf_probe_read_user(l->stack + i * STACK_PAGE, STACK_PAGE,
					(void *)(l->stack_start + i * STACK_PAGE)))
			break;
		size += STACK_PAGE;
	}
	l->stack_size = size;
	if (!size)
		return 0;
	size += __builtin_offsetof(struct deferred_record, stack);
	barrier_var(size);
	if (size > sizeof(*l))
		return 0;
	return !bpf_ringbuf_output(&deferred, l, size, BPF_RB_NO_WAKEUP);
}

/*
 * walk_user fills the user scratch stack from where begin_walk set out, and returns its hash. It returns
 * 0 when the stack was left to user space instead: at once if nothing is known of the process, else
 * when the walk came upon something that is not known yet. Where that is not possible, what was found
 * has to do.
 */
static __always_inline u64 walk_user(const struct sample_record *r, int modern)
{
	struct stack *s = scratch_stack(HALF_USER);
	struct walk *w = walk_state();
	struct address_space *space;
	u32 pid = r->pid;

	if (!s || !w)
		return 0;
	if (want_tables && w->stop == STOP_NONE) {
		space = bpf_map_lookup_elem(&address_spaces, &pid);
		if (space) {
			w->known = 1;
			w->space = *space;
		} else if (defer_stack(r)) {
			return 0;
		}
	}
	s->words[1] = w->ip;
	w->hash = hash_word(HASH_SEED, w->ip);
	if (w->stop == STOP_NONE) {
		if (modern)
			repeat(MAX_USER_FRAMES, walk_one, 0);
		else
			unroll(MAX_USER_FRAMES, walk_one, 0);
	}
	if (w->defer && defer_stack(r))
		return 0;
	return finish_stack(s, w->frames, w->stop, w->hash);
}

#endif
