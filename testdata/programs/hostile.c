/*
 * hostile SECONDS COMM: burns CPU time in code that it writes into anonymous
 * memory, called by jit_caller. Its perf map gives that code names made to
 * break whoever shows them, between lines made to break whoever reads them.
 * COMM, any bytes, becomes the process's name. The map is removed at the end.
 */
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "burn.h"

/* void f(uint64_t n): counts n down to zero, with a frame of its own. */
#if defined(__x86_64__)
static const unsigned char code[] = {
	0x55,		  /*    push %rbp */
	0x48, 0x89, 0xe5, /*    mov %rsp, %rbp */
	0x48, 0xff, 0xcf, /* 1: dec %rdi */
	0x75, 0xfb,	  /*    jne 1b */
	0x5d,		  /*    pop %rbp */
	0xc3,		  /*    ret */
};
#elif defined(__aarch64__)
static const uint32_t code[] = {
	0xa9bf7bfd, /*    stp x29, x30, [sp, #-16]! */
	0x910003fd, /*    mov x29, sp */
	0xf1000400, /* 1: subs x0, x0, #1 */
	0x54ffffe1, /*    b.ne 1b */
	0xa8c17bfd, /*    ldp x29, x30, [sp], #16 */
	0xd65f03c0, /*    ret */
};
#endif

#define PAGE 4096
#define SECOND 128 /* offset of the second copy of the code */

static const char first_name[] = "</script><script>alert('jit')</script>";
static const char second_name[] = "semi;colon \"quotes\" &amp; \xff\xfe \x1b[31m\ttab";

static void write_map(const char *path, const char *page)
{
	unsigned long at = (unsigned long)page;
	FILE *f = fopen(path, "w");
	if (f == NULL) {
		perror(path);
		exit(1);
	}
	fprintf(f, "%lx %zx %s\n", at, sizeof(code), first_name);
	fprintf(f, "\n \nno numbers at all\nffffffffffffffffffff 10 too large\n");
	fprintf(f, "%lx\n%lx 10\n-1 -1 negative\n%lx 0 empty\n", at, at, at + SECOND);
	fprintf(f, "fffffffffffffff0 ffffffffffffffff wraps around\n");
	fprintf(f, "%lx 10 ", at + PAGE);
	for (int i = 0; i < 1 << 20; i++)
		fputc('A', f);
	fprintf(f, "\n%lx 10 nul%cbyte\n", at + PAGE + 16, 0);
	fprintf(f, "%lx %zx %s\n", at + SECOND, sizeof(code), second_name);
	fprintf(f, "%lx 10 no newline at the end", at + PAGE + 32);
	if (fclose(f) != 0) {
		perror(path);
		exit(1);
	}
}

KEPT void jit_caller(char *page, uint64_t end)
{
	void (*first)(uint64_t) = (void (*)(uint64_t))page;
	void (*second)(uint64_t) = (void (*)(uint64_t))(page + SECOND);
	while (clock_ns(CLOCK_MONOTONIC) < end) {
		first(1000000);
		second(1000000);
	}
}

int main(int argc, char **argv)
{
	uint64_t end = clock_ns(CLOCK_MONOTONIC) + seconds_arg(argc, argv, 1);
	char path[64];

	if (argc > 2)
		prctl(PR_SET_NAME, argv[2]);
	char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED) {
		perror("mmap");
		return 1;
	}
	memcpy(page, code, sizeof(code));
	memcpy(page + SECOND, code, sizeof(code));
	__builtin___clear_cache(page, page + PAGE);
	if (mprotect(page, PAGE, PROT_READ | PROT_EXEC) != 0) {
		perror("mprotect");
		return 1;
	}
	snprintf(path, sizeof(path), "/tmp/perf-%d.map", getpid());
	write_map(path, page);
	jit_caller(page, end);
	unlink(path);
	return 0;
}
