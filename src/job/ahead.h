/* SPDX-License-Identifier: MIT */
/*
 * Files of a volume, opened before they are asked for: whoever reads an archive
 * in order finds the next ones ready, the small ones in memory.
 *
 * No more than a hint: what is not there in time the caller opens itself, and what
 * nobody asks for is closed again.  Any thread may call, several at once.
 */
#ifndef DVOLFS_JOB_AHEAD_H
#define DVOLFS_JOB_AHEAD_H

#include "volume/contents.h"

/* What it holds: files, bytes of small ones (CONTENTS_SMALL_BYTES) by the sizes
 * they were announced with, and open large ones. */
#define AHEAD_MAX_FILES 512
#define AHEAD_MAX_BYTES ((size_t)8 << 20)
#define AHEAD_MAX_LARGE 8

struct ahead;

/* contents must outlive it.  Its thread is started when first there is work. */
must_check struct ahead *ahead_new(struct contents *contents);

/* Gives up what is under way, and closes what nobody asked for.  No other call
 * may be under way.  NULL is allowed. */
void ahead_free(struct ahead *ahead);

/* Says that the file, of size_bytes, will probably be asked for soon.  False: not
 * now, there is no room.  Does not block. */
must_check bool ahead_expect(struct ahead *ahead, const char *path, uint64_t dev, uint64_t id,
                             uint64_t size_bytes);

/* As contents_open, of now or of since it was announced. */
must_check int ahead_open(struct ahead *ahead, const char *path, uint64_t dev, uint64_t id,
                          struct cancel *cancel, struct contents_file **ret_file);

#endif
