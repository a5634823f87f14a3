/* SPDX-License-Identifier: MIT */
/*
 * Moments: the archive of a volume as of one instant, shown as now.tar, now.tar.gz and
 * now.tar.zst, each of which has its own.
 *
 * A moment is made when somebody asks for its size or opens it, once for all
 * who ask at the same time, and never changes.  Each is a file of its own to
 * the kernel, so that its caches never mix two.  Which one a name stands for
 * when it is looked up is decided here:
 *   - what a process has asked the size of is what it opens next, for as long
 *     as attributes may be trusted (the mount option cache, a second at least)
 *     after it was made;
 *   - one whose making has begun no longer ago than that is shared;
 *   - otherwise it is a new one.
 * So `write; cp` always copies what was written, and stat and open agree.
 *
 * It is kept while it is open, and for as long as one who looked it up and has not
 * opened it may still do so.  Any thread may call.
 */
#ifndef DVOLFS_JOB_MOMENT_H
#define DVOLFS_JOB_MOMENT_H

#include "base/cancel.h"
#include "base/fail.h"
#include "base/log.h"
#include "base/workers.h"
#include "job/now_archive.h"
#include "volume/volumes.h"

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

struct moments;
struct moment;

struct moments_conf {
    struct volumes *volumes;
    struct spool *spool;
    struct workers *workers; /* where archives are made; not the threads that wait for them */
    struct log *log;
    struct jobs *jobs; /* where compressing is seen; may be NULL */
    int level;         /* of zstd */
    double cache_seconds;
};

/* Copies *conf; what it points to must outlive the moments. */
must_check int moments_start(const struct moments_conf *conf, struct moments **ret_moments,
                             struct fail *why);

/* Gives up what is being made, waits for it and frees.  All moments must have
 * been unref'ed.  NULL is allowed. */
void moments_stop(struct moments *moments);

/*
 * The moment that now.tar of the volume, or one of the others, stands for, to the
 * given process (its process id, not a thread's); a new reference.  Starts nothing, does not
 * block.  NULL: out of memory.
 */
must_check struct moment *moment_find(struct moments *moments, const char *volume,
                                      enum now_format format, pid_t process);
void moment_unref(struct moment *moment);

/* A number no other moment of this process has. */
uint64_t moment_serial(const struct moment *moment);

/*
 * Makes the archive, where it is not made yet, and waits for it.  When all who
 * wait have given up, its making is cancelled.  Blocks.  Errors as now_archive_make;
 * -ESTALE: it was made and is gone again.  The reason of a failure is logged here.
 */
must_check int moment_stat(struct moment *moment, pid_t process, struct cancel *cancel,
                           struct now_archive_info *ret_info);

/* Whether it is made, and what moment_stat would say.  Never blocks. */
bool moment_peek(struct moment *moment, struct now_archive_info *ret_info);

/* How many files are not in it as they were when it was made, so far.  Never blocks. */
uint64_t moment_affected(struct moment *moment);

/* As moment_stat, and keeps its bytes until moment_close.  Blocks. */
must_check int moment_open(struct moment *moment, pid_t process, struct cancel *cancel);
void moment_close(struct moment *moment);

/* Of an open moment: up to len bytes at offset, fewer only at its end; -errno,
 * whose reason is logged here.  Blocks on the volume's files. */
must_check ssize_t moment_read(struct moment *moment, void *data, size_t len, uint64_t offset,
                               struct cancel *cancel);

#endif
