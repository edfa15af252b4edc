/*
 * threads SECONDS: three threads, named alpha, beta and "gamma delta", each
 * burn CPU time in their own function.
 */
#define _GNU_SOURCE
#include <pthread.h>

#include "burn.h"

KEPT void *alpha_work(void *end)
{
	burn_until(CLOCK_MONOTONIC, *(uint64_t *)end);
	return NULL;
}

KEPT void *beta_work(void *end)
{
	burn_until(CLOCK_MONOTONIC, *(uint64_t *)end);
	return NULL;
}

KEPT void *gamma_work(void *end)
{
	burn_until(CLOCK_MONOTONIC, *(uint64_t *)end);
	return NULL;
}

struct worker {
	const char *name;
	void *(*work)(void *);
	uint64_t end;
	pthread_t thread;
};

static void *run(void *arg)
{
	struct worker *w = arg;
	pthread_setname_np(pthread_self(), w->name);
	void *result = w->work(&w->end);
	NO_TAIL_CALL;
	return result;
}

int main(int argc, char **argv)
{
	uint64_t end = clock_ns(CLOCK_MONOTONIC) + seconds_arg(argc, argv, 1);
	struct worker workers[] = {
		{ .name = "alpha", .work = alpha_work, .end = end },
		{ .name = "beta", .work = beta_work, .end = end },
		{ .name = "gamma delta", .work = gamma_work, .end = end },
	};
	for (int i = 0; i < 3; i++) {
		if (pthread_create(&workers[i].thread, NULL, run, &workers[i]) != 0) {
			fprintf(stderr, "threads: no thread\n");
			return 1;
		}
	}
	for (int i = 0; i < 3; i++)
		pthread_join(workers[i].thread, NULL);
	return 0;
}
