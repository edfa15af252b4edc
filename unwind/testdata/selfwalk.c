/*
 * selfwalk SAMPLES [alt]: interrupts itself at random and writes for each signal to stdout, as
 * native words: 1, the 17 registers by DWARF number, the stack above SP (its address, its size in
 * bytes, its content), the signal frame likewise, and the count and addresses of backtrace(3) from
 * the interrupted instruction on, 0 where that crashes. In the end the word 0, the vDSO (size, content) and
 * /proc/self/maps. With "alt" the handler has a stack of its own.
 */
#define _GNU_SOURCE
#include <alloca.h>
#include <execinfo.h>
#include <fcntl.h>
#include <link.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define KEPT __attribute__((noinline, noclone))
enum { MAX_FRAMES = 1200, SIGNAL_FRAME = 512 };

extern void *__libc_stack_end;

static volatile sig_atomic_t left;
static volatile double sink;
static sigjmp_buf lost;
static char *out; /* a file in memory: the handler only copies */
static size_t used;

static void put(const void *p, size_t n)
{
	memcpy(out + used, p, n);
	used += n;
}

static void word(uint64_t v)
{
	put(&v, sizeof(v));
}

static void region(uint64_t from, uint64_t to)
{
	word(from);
	word(to - from);
	put((void *)from, to - from);
}

static const int by_dwarf[17] = {
	REG_RAX, REG_RDX, REG_RCX, REG_RBX, REG_RSI, REG_RDI, REG_RBP, REG_RSP, REG_R8,
	REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15, REG_RIP,
};

static void on_alarm(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)info;
	if (!left)
		return;
	left--;
	word(1);
	const greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
	for (int i = 0; i < 17; i++)
		word(regs[by_dwarf[i]]);
	region((regs[REG_RSP] - 128) & ~7ull, (uint64_t)__libc_stack_end + 64);
	region((uint64_t)context - 8, (uint64_t)context + SIGNAL_FRAME);

	/* This function, the code that the handler returns to, and the stack. */
	static void *frames[MAX_FRAMES];
	int n = sigsetjmp(lost, 1) ? 0 : backtrace(frames, MAX_FRAMES);
	int first = 0;
	while (first < n && (uint64_t)frames[first] != (uint64_t)regs[REG_RIP])
		first++;
	word(n - first);
	put(frames + first, (n - first) * sizeof(*frames));

	/* Never in step with what is interrupted. */
	struct itimerval next = { .it_value = { 0, 20 + random() % 300 } };
	setitimer(ITIMER_REAL, &next, NULL);
}

/* libgcc's unwinder follows wrong unwind information to where nothing is. */
static void on_fault(int sig)
{
	(void)sig;
	siglongjmp(lost, 1);
}

static int compare(const void *a, const void *b)
{
	const double x = *(const double *)a, y = *(const double *)b;
	sink += sin(x);
	return (x > y) - (x < y);
}

KEPT double sorted(int n)
{
	double *values = alloca(n * sizeof(*values));
	for (int i = 0; i < n; i++)
		values[i] = fmod(i * 7919.0, 1009);
	qsort(values, n, sizeof(*values), compare);
	return values[n / 2];
}

/* A dynamic size and a large alignment: the frame's distance to its caller's is not constant. */
KEPT double aligned(int n, ...)
{
	_Alignas(64) double lanes[8];
	double *more = alloca(n * sizeof(*more));
	for (int i = 0; i < n; i++) {
		more[i] = lanes[i & 7] = sqrt(i + sink);
		sink += more[i / 2];
	}
	return n > 8 ? aligned(n / 2, 1, 2, 3) + lanes[3] : lanes[1] + more[0];
}

KEPT double deep(int depth)
{
	double x = depth > 0 ? deep(depth - 1) : sorted(16);
	return x + pow(x, 0.25);
}

KEPT void strings(void)
{
	char text[256], copy[4096];
	for (int i = 0; i < 20; i++) {
		snprintf(text, sizeof(text), "%d %.17g %s", i, sink, "words");
		memset(copy, i, sizeof(copy));
		sink += strtod(strchr(text, ' '), NULL) * 1e-9 + strlen(text) + (memmem(copy, sizeof(copy), "x", 1) != NULL);
		free(strdup(text));
	}
}

KEPT void clocks(void)
{
	struct timespec t;
	for (int i = 0; i < 200; i++) {
		clock_gettime(CLOCK_MONOTONIC, &t);
		sink += t.tv_nsec & 1;
	}
}

int main(int argc, char **argv)
{
	if (argc < 2)
		return 2;
	void *frames[4];
	backtrace(frames, 4); /* loads the unwinder */
	out = mmap(NULL, 1u << 30, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (out == MAP_FAILED)
		return 1;
	if (argc > 2) {
		stack_t alt = { .ss_sp = malloc(1 << 18), .ss_size = 1 << 18 };
		sigaltstack(&alt, NULL);
	}
	struct sigaction act = { .sa_sigaction = on_alarm, .sa_flags = SA_SIGINFO | SA_RESTART | (argc > 2 ? SA_ONSTACK : 0) };
	sigaction(SIGALRM, &act, NULL);
	struct sigaction fault = { .sa_handler = on_fault, .sa_flags = act.sa_flags & SA_ONSTACK };
	sigaction(SIGSEGV, &fault, NULL);
	left = atoi(argv[1]);
	raise(SIGALRM);
	for (int round = 0; left; round++) {
		sink += sorted(60) + aligned(200) + deep(round % 64 ? 20 : 400);
		strings();
		clocks();
	}

	word(0);
	const ElfW(Ehdr) *vdso = (const void *)getauxval(AT_SYSINFO_EHDR);
	size_t size = vdso ? vdso->e_shoff + vdso->e_shnum * vdso->e_shentsize : 0;
	size = (size + 7) & ~7ul;
	word(size);
	put(vdso, size);
	int maps = open("/proc/self/maps", O_RDONLY);
	for (ssize_t n; (n = read(maps, out + used, 1 << 16)) > 0;)
		used += n;
	for (size_t done = 0; done < used;) {
		ssize_t n = write(1, out + done, used - done);
		if (n <= 0)
			return 1;
		done += n;
	}
	return 0;
}
