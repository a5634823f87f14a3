/* SPDX-License-Identifier: MIT */
#include "base/workers.h"

#include <stdbool.h>
#include <time.h>

#define IDLE_SECONDS 5
/* Enough for libcurl and libarchive, which keep their buffers on the heap; a
 * sanitizer build needs several times what a plain one does. */
#define STACK_BYTES (1024 * 1024)

struct work {
    void (*fn)(void *data);
    void *data;
    struct work *next;
};

struct workers {
    pthread_mutex_t lock;
    pthread_cond_t changed; /* work queued, a thread gone, or stopping */
    struct work *first;
    struct work **last;
    unsigned threads;
    unsigned idle;
    unsigned queued;
    unsigned max_threads;
    bool stopping;
};

struct workers *workers_new(unsigned max_threads)
{
    struct workers *workers = calloc(1, sizeof(*workers));
    if (!workers)
        return NULL;
    (void)pthread_mutex_init(&workers->lock, NULL);
    pthread_condattr_t attr;
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&workers->changed, &attr);
    (void)pthread_condattr_destroy(&attr);
    workers->last = &workers->first;
    workers->max_threads = max_threads;
    return workers;
}

/* With the lock held: the next work, or NULL when this thread should end. */
static struct work *next_work(struct workers *workers)
{
    struct timespec until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += IDLE_SECONDS;
    workers->idle++;
    int r = 0;
    while (!workers->first && !workers->stopping && r == 0)
        r = pthread_cond_timedwait(&workers->changed, &workers->lock, &until);
    workers->idle--;
    struct work *work = workers->first;
    if (work) {
        workers->first = work->next;
        if (!workers->first)
            workers->last = &workers->first;
        workers->queued--;
    }
    return work;
}

static void *worker_main(void *arg)
{
    struct workers *workers = arg;
    (void)pthread_mutex_lock(&workers->lock);
    struct work *work;
    while ((work = next_work(workers))) {
        (void)pthread_mutex_unlock(&workers->lock);
        work->fn(work->data);
        free(work);
        (void)pthread_mutex_lock(&workers->lock);
    }
    workers->threads--;
    (void)pthread_cond_broadcast(&workers->changed);
    (void)pthread_mutex_unlock(&workers->lock);
    return NULL;
}

/* With the lock held. */
static int start_thread(struct workers *workers)
{
    pthread_attr_t attr;
    (void)pthread_attr_init(&attr);
    (void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    (void)pthread_attr_setstacksize(&attr, STACK_BYTES);
    pthread_t thread;
    int err = pthread_create(&thread, &attr, worker_main, workers);
    (void)pthread_attr_destroy(&attr);
    if (err)
        return -EAGAIN;
    workers->threads++;
    return 0;
}

int workers_submit(struct workers *workers, void (*fn)(void *data), void *data)
{
    struct work *work = calloc(1, sizeof(*work));
    if (!work)
        return -ENOMEM;
    *work = (struct work){.fn = fn, .data = data};
    scoped_lock(&workers->lock);
    int r = workers->stopping ? -ESHUTDOWN : 0;
    if (r == 0 && workers->queued >= workers->idle && workers->threads < workers->max_threads &&
        start_thread(workers) < 0 && workers->threads == 0)
        r = -EAGAIN;
    if (r < 0) {
        free(work);
        return r;
    }
    *workers->last = work;
    workers->last = &work->next;
    workers->queued++;
    /* Not pthread_cond_signal: workers_stop waits on the same condition. */
    (void)pthread_cond_broadcast(&workers->changed);
    return 0;
}

void workers_stop(struct workers *workers)
{
    scoped_lock(&workers->lock);
    workers->stopping = true;
    (void)pthread_cond_broadcast(&workers->changed);
    while (workers->threads)
        (void)pthread_cond_wait(&workers->changed, &workers->lock);
}

void workers_free(struct workers *workers)
{
    if (!workers)
        return;
    workers_stop(workers);
    (void)pthread_cond_destroy(&workers->changed);
    (void)pthread_mutex_destroy(&workers->lock);
    free(workers);
}
