/* SPDX-License-Identifier: MIT */
/*
 * The last events, in memory, for people to read as .dvolfs/log: one line each,
 * newest last, "2026-11-22T09:30:00Z text".
 *
 * A log grows as a file does, so that `tail -f` can follow it.  When it reaches
 * LOG_MAX_BYTES the older half is dropped and its generation goes up by one: to
 * a reader it is then another file, as after a rotation.  Any thread may call.
 */
#ifndef DVOLFS_BASE_LOG_H
#define DVOLFS_BASE_LOG_H

#include "base/cleanup.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define LOG_MAX_BYTES (512 * 1024)

struct log;

/* An empty log; with echo, lines go to stderr as well.  NULL: out of memory. */
must_check struct log *log_new(bool echo);
void log_free(struct log *log);

/*
 * Adds a line; control characters in it become '?'.  Never fails: where memory
 * is short the line is lost.  log may be NULL.
 */
void log_event(struct log *log, const char *format, ...) printf_like(2, 3);

/* Current size in bytes and generation (from 0), taken together. */
void log_extent(struct log *log, uint64_t *ret_bytes, uint64_t *ret_generation);

/*
 * Copies up to len bytes at offset of the given generation: their number, 0 at
 * or past the end and for a generation that is gone.
 */
size_t log_read(struct log *log, uint64_t generation, uint64_t offset, void *data, size_t len);

#endif
