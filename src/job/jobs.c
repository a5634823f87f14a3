/* SPDX-License-Identifier: MIT */
#include "job/jobs.h"

#include <inttypes.h>
#include <time.h>

struct jobs {
    pthread_mutex_t lock;
    struct job *first; /* oldest first */
    struct job **last;
};

static int64_t now_ms(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

struct jobs *jobs_new(void)
{
    struct jobs *jobs = calloc(1, sizeof(*jobs));
    if (!jobs)
        return NULL;
    (void)pthread_mutex_init(&jobs->lock, NULL);
    jobs->last = &jobs->first;
    return jobs;
}

void jobs_free(struct jobs *jobs)
{
    if (!jobs)
        return;
    (void)pthread_mutex_destroy(&jobs->lock);
    free(jobs);
}

void job_begin(struct job *job, struct jobs *jobs, const char *kind, const char *volume,
               const char *name)
{
    *job = (struct job){
        .jobs = jobs, .kind = kind, .volume = volume, .name = name, .begun_ms = now_ms()};
    if (!jobs)
        return;
    scoped_lock(&jobs->lock);
    *jobs->last = job;
    jobs->last = &job->next;
}

void job_end(struct job *job)
{
    struct jobs *jobs = job->jobs;
    if (!jobs)
        return;
    scoped_lock(&jobs->lock);
    struct job **at = &jobs->first;
    while (*at != job)
        at = &(*at)->next;
    *at = job->next;
    if (!job->next)
        jobs->last = at;
}

void job_set_total(struct job *job, uint64_t bytes)
{
    job->total_bytes = bytes;
}

void job_add_done(struct job *job, uint64_t bytes)
{
    job->done_bytes += bytes;
}

/* ---- for people to read ------------------------------------------------------------- */

/* A rate is told once there is something to tell it from. */
static int print_pace(const struct job *job, uint64_t done, uint64_t total, struct buf *out)
{
    uint64_t ms = (uint64_t)(now_ms() - job->begun_ms);
    uint64_t rate = ms > 0 ? (uint64_t)((double)done * 1000 / (double)ms) : 0;
    if (rate == 0)
        return buf_add_string(out, "\t-\t-\n");
    int r = buf_printf(out, "\t%" PRIu64, rate);
    if (r < 0)
        return r;
    if (total == 0)
        return buf_add_string(out, "\t-\n");
    return buf_printf(out, "\t%" PRIu64 "\n", done < total ? (total - done) / rate : 0);
}

static int print_job(struct job *job, struct buf *out)
{
    uint64_t done = job->done_bytes;
    uint64_t total = job->total_bytes;
    int r = buf_printf(out, "%s\t%s/%s\t%" PRIu64 "\t", job->kind, job->volume, job->name, done);
    if (r == 0)
        r = total ? buf_printf(out, "%" PRIu64, total) : buf_add_string(out, "-");
    return r < 0 ? r : print_pace(job, done, total, out);
}

int jobs_print(struct jobs *jobs, struct buf *out)
{
    scoped_lock(&jobs->lock);
    int r = 0;
    for (struct job *job = jobs->first; job && r == 0; job = job->next)
        r = print_job(job, out);
    return r;
}
