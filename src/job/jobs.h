/* SPDX-License-Identifier: MIT */
/*
 * What is running, for people to read as .dvolfs/jobs: one line for each job,
 * oldest first.  Any thread may call.
 */
#ifndef DVOLFS_JOB_JOBS_H
#define DVOLFS_JOB_JOBS_H

#include "base/buf.h"

#include <stdatomic.h>
#include <stdint.h>

struct jobs;

must_check struct jobs *jobs_new(void);
/* No job may be running.  NULL is allowed. */
void jobs_free(struct jobs *jobs);

/* One job, in its caller's own structure or stack.  jobs may be NULL: then nobody sees it. */
struct job {
    struct jobs *jobs;
    const char *kind;   /* "take", "import", "restore", "compress", "index" */
    const char *volume; /* must outlive the job */
    const char *name;   /* of the snapshot or archive; likewise */
    struct job *next;
    int64_t begun_ms;
    _Atomic uint64_t done_bytes;
    _Atomic uint64_t total_bytes; /* 0: not known yet */
};

void job_begin(struct job *job, struct jobs *jobs, const char *kind, const char *volume,
               const char *name);
void job_end(struct job *job);
#define cleanup_job cleanup(job_end)

void job_set_total(struct job *job, uint64_t bytes);
void job_add_done(struct job *job, uint64_t bytes);

/* Adds the lines: kind, volume/name, bytes done, total, bytes a second, seconds left
 * ("-" where they are not known), with single tabs between.  -ENOMEM, -EMSGSIZE. */
must_check int jobs_print(struct jobs *jobs, struct buf *out);

#endif
