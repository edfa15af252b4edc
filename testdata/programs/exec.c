/*
 * exec SECONDS: burns CPU time in before_exec, half of it, then executes
 * itself under the name "second", which is another path of the same file,
 * and burns the rest in after_exec. The process stays the same.
 */
#include <libgen.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "burn.h"

KEPT void before_exec(uint64_t end)
{
	burn_until(CLOCK_MONOTONIC, end);
}

KEPT void after_exec(uint64_t end)
{
	burn_until(CLOCK_MONOTONIC, end);
}

int main(int argc, char **argv)
{
	uint64_t end = clock_ns(CLOCK_MONOTONIC) + seconds_arg(argc, argv, 1) / 2;
	if (argc > 2) {
		after_exec(end);
		unlink(argv[2]);
		return 0;
	}
	char self[PATH_MAX], second[PATH_MAX + 16];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	if (n < 0) {
		perror("/proc/self/exe");
		return 1;
	}
	self[n] = '\0';
	before_exec(end);

	char dir[PATH_MAX];
	strcpy(dir, self);
	snprintf(second, sizeof(second), "%s/second", dirname(dir));
	if (link(self, second) != 0) {
		perror(second);
		return 1;
	}
	execl(second, second, argv[1], second, (char *)NULL);
	perror(second);
	return 1;
}
