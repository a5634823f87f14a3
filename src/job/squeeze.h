/* SPDX-License-Identifier: MIT */
/* A whole stream compressed into a file, on all processors: the .gz and .zst of what is
 * there at the moment. */
#ifndef DVOLFS_JOB_SQUEEZE_H
#define DVOLFS_JOB_SQUEEZE_H

#include "base/cancel.h"
#include "base/fail.h"
#include "job/jobs.h"

#include <stdbool.h>
#include <sys/types.h>

struct squeeze_conf {
    bool is_gzip; /* else zstd */
    int level;    /* of zstd */

    /* Up to len bytes of the stream at offset, fewer only at its end; -errno with why.
     * Called by one thread, in order. */
    ssize_t (*read)(void *data, void *buf, size_t len, uint64_t offset, struct cancel *cancel,
                    struct fail *why);
    void *data;

    struct job *job;       /* is told what is done */
    struct cancel *cancel; /* may be NULL */
    int fd;                /* an empty file */
};

/* 0 with how long the file is then.  Blocks.  Errors of compress_run and pwrite(2). */
must_check int squeeze(const struct squeeze_conf *conf, uint64_t *ret_bytes, struct fail *why);

#endif
