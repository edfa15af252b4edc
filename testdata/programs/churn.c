/*
 * churn RATE SECONDS: starts RATE children a second, each of which executes
 * this program again and burns 1 ms of CPU time in churn_child; prints how
 * many there were.
 */
#include <errno.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "burn.h"

KEPT void churn_child(void)
{
	burn_until(CLOCK_THREAD_CPUTIME_ID, clock_ns(CLOCK_THREAD_CPUTIME_ID) + NS_PER_MS);
}

static void start(char **argv)
{
	pid_t pid = fork();
	if (pid < 0) {
		perror("fork");
		exit(1);
	}
	if (pid == 0) {
		char *child[] = { argv[0], "child", NULL };
		execv("/proc/self/exe", child);
		_exit(127);
	}
}

/* Waits for children, for all of them where flags is 0. Returns failures. */
static int reap(int flags)
{
	int status, failed = 0;
	pid_t pid;
	while ((pid = waitpid(-1, &status, flags)) > 0 || (pid < 0 && errno == EINTR))
		failed += pid > 0 && status != 0;
	return failed;
}

static void sleep_until(uint64_t ns)
{
	struct timespec t = { .tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S) };
	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
		;
}

int main(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], "child") == 0) {
		churn_child();
		return 0;
	}
	uint64_t begin = clock_ns(CLOCK_MONOTONIC);
	uint64_t end = begin + seconds_arg(argc, argv, 2);
	uint64_t rate = strtoul(argv[1], NULL, 10), started = 0;
	int failed = 0;
	if (rate < 1 || rate > 10000) {
		fprintf(stderr, "churn: rate is not in 1..10000\n");
		return 2;
	}
	while (clock_ns(CLOCK_MONOTONIC) < end) {
		start(argv);
		started++;
		failed += reap(WNOHANG);
		sleep_until(begin + started * NS_PER_S / rate);
	}
	failed += reap(0);
	printf("%llu\n", (unsigned long long)started);
	return failed > 0;
}
