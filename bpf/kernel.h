/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * The few kernel types, constants and helpers the programs need. Field offsets are
 * relocated against the running kernel's BTF (CO-RE), so only names and types count.
 * Helper numbers are UAPI: include/uapi/linux/bpf.h.
 */
#ifndef HOTFRAME_KERNEL_H
#define HOTFRAME_KERNEL_H

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef int s32;
typedef long long s64;

#define SEC(name) __attribute__((section(name), used))
#define __always_inline inline __attribute__((always_inline))
#define __noinline __attribute__((noinline))
#define barrier() asm volatile("" ::: "memory")
#define barrier_var(v) asm volatile("" : "+r"(v))
#define __uint(name, val) int(*name)[val]
#define __type(name, val) typeof(val) *name
#define __array(name, val) typeof(val) *name[]

enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_ARRAY_OF_MAPS = 12,
	BPF_MAP_TYPE_RINGBUF = 27,
};

enum {
	BPF_NOEXIST = 1,
	BPF_F_MMAPABLE = 1 << 10,
	BPF_RB_NO_WAKEUP = 1,
};

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static u64 (*const bpf_ktime_get_ns)(void) = (void *)5;
static u32 (*const bpf_get_smp_processor_id)(void) = (void *)8;
static u64 (*const bpf_get_current_pid_tgid)(void) = (void *)14;
static long (*const bpf_get_current_comm)(void *buf, u32 size) = (void *)16;
static u64 (*const bpf_get_current_task)(void) = (void *)35;
static long (*const bpf_get_stack)(void *ctx, void *buf, u32 size, u64 flags) = (void *)67;
static u64 (*const bpf_get_current_cgroup_id)(void) = (void *)80;
static long (*const bpf_probe_read_user)(void *dst, u32 size, const void *from) = (void *)112;
static long (*const bpf_probe_read_kernel)(void *dst, u32 size, const void *from) = (void *)113;
static long (*const bpf_ringbuf_output)(void *ring, void *data, u64 size, u64 flags) = (void *)130;
/* Since Linux 5.11, 5.15 and 5.17. */
static struct task_struct *(*const bpf_get_current_task_btf)(void) = (void *)158;
static long (*const bpf_task_pt_regs)(struct task_struct *task) = (void *)175;
static long (*const bpf_loop)(u32 count, void *callback, void *arg, u64 flags) = (void *)181;

/* A constant once the program is relocated against the running kernel. */
#define kernel_sizeof(type) ((u64)__builtin_preserve_type_info(*(typeof(type) *)0, 1))

#if defined(__TARGET_ARCH_x86)

/* arch/x86/include/asm/ptrace.h, also the layout of bpf_user_pt_regs_t. */
struct pt_regs {
	u64 r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};

#define THREAD_SIZE 16384ULL /* arch/x86/include/asm/page_64_types.h, without KASAN */
#define TASK_SIZE_USER (1ULL << 56) /* five-level page tables; four-level addresses are below 1 << 47 */

static __always_inline int user_mode(const struct pt_regs *r)
{
	return (r->cs & 3) == 3;
}

/* __USER32_CS, arch/x86/include/asm/segment.h */
static __always_inline int compat_mode(const struct pt_regs *r)
{
	return r->cs == 0x23;
}

#define REG_IP(r) ((r)->ip)
#define REG_SP(r) ((r)->sp)
#define REG_FP(r) ((r)->bp)
#define REG_LR(r) 0ULL
#define STRIP_PAC(addr) (addr)

/* All registers by DWARF number: System V ABI, AMD64 supplement, figure 3.36. */
#define COPY_GPR(to, r) \
	do { \
		(to)[0] = (r)->ax, (to)[1] = (r)->dx, (to)[2] = (r)->cx, (to)[3] = (r)->bx; \
		(to)[4] = (r)->si, (to)[5] = (r)->di, (to)[6] = (r)->bp, (to)[7] = (r)->sp; \
		(to)[8] = (r)->r8, (to)[9] = (r)->r9, (to)[10] = (r)->r10, (to)[11] = (r)->r11; \
		(to)[12] = (r)->r12, (to)[13] = (r)->r13, (to)[14] = (r)->r14, (to)[15] = (r)->r15; \
		(to)[16] = (r)->ip; \
	} while (0)

/* struct sigcontext, arch/x86/include/uapi/asm/sigcontext.h, behind uc_flags, uc_link and uc_stack. */
#define SIGNAL_REGS 40
struct signal_regs {
	u64 r8, r9, r10, r11, r12, r13, r14, r15, di, si, bp, bx, dx, ax, cx, sp, ip;
};

#elif defined(__TARGET_ARCH_arm64)

/* struct user_pt_regs, arch/arm64/include/uapi/asm/ptrace.h: how struct pt_regs begins. */
struct pt_regs {
	u64 regs[31], sp, pc, pstate;
};

#define THREAD_SIZE 16384ULL /* arch/arm64/include/asm/memory.h, 4-KiB and 16-KiB pages */
#define TASK_SIZE_USER (1ULL << 52)

/* PSR_MODE_EL0t, arch/arm64/include/uapi/asm/ptrace.h */
static __always_inline int user_mode(const struct pt_regs *r)
{
	return (r->pstate & 0xf) == 0;
}

/* PSR_MODE32_BIT */
static __always_inline int compat_mode(const struct pt_regs *r)
{
	return (r->pstate & 0x10) != 0;
}

#define REG_IP(r) ((r)->pc)
#define REG_SP(r) ((r)->sp)
#define REG_FP(r) ((r)->regs[29])
#define REG_LR(r) ((r)->regs[30])
#define COPY_GPR(to, r) \
	do { \
		_Pragma("unroll") for (int n_ = 0; n_ < 17; n_++)(to)[n_] = (r)->regs[n_]; \
	} while (0)

/* uc_mcontext.regs behind struct siginfo, arch/arm64/kernel/signal.c and uapi/asm/sigcontext.h. */
#define SIGNAL_REGS 312
struct signal_regs {
	u64 regs[31], sp, pc;
};
/* Pointer authentication codes are in the bits above the 48-bit address. */
#define STRIP_PAC(addr) ((addr) & ((1ULL << 48) - 1))

#else
#error "unknown target architecture"
#endif

/* struct bpf_perf_event_data, include/uapi/linux/bpf_perf_event.h */
struct bpf_perf_event_data {
	struct pt_regs regs;
	u64 sample_period;
	u64 addr;
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct mm_struct;
struct task_struct {
	void *stack;
	struct mm_struct *mm;
};
#pragma clang attribute pop

/* Reads one relocated field of a kernel object into *dst; 0 when it could be read. */
#define read_field(dst, object, field) \
	bpf_probe_read_kernel(dst, sizeof(*(dst)), __builtin_preserve_access_index(&(object)->field))

#endif
