/* SPDX-License-Identifier: MIT */
/*
 * Threads for work that may wait: as many as there is waiting work, up to a
 * limit, idle ones ending by themselves.  Beyond the limit work queues in the
 * order it came.  Any thread may submit.
 */
#ifndef DVOLFS_BASE_WORKERS_H
#define DVOLFS_BASE_WORKERS_H

#include "base/cleanup.h"

struct workers;

/* No thread is started yet.  NULL: out of memory. */
must_check struct workers *workers_new(unsigned max_threads);

/*
 * Runs fn(data) once in some worker.  -ENOMEM, -EAGAIN (no thread could be
 * started and none is running), -ESHUTDOWN after workers_stop: fn is not run.
 */
must_check int workers_submit(struct workers *workers, void (*fn)(void *data), void *data);

/*
 * Takes no more work, and waits until what was submitted has run: the caller
 * has cancelled what could wait for long.
 */
void workers_stop(struct workers *workers);

/* Stops and frees.  NULL is allowed. */
void workers_free(struct workers *workers);

#endif
