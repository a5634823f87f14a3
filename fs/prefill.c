/* SPDX-License-Identifier: MIT */
#include "fs/prefill.h"

/* Far fewer than the session's threads: see loop.c. */
#define MOST_AT_ONCE 4

struct prefill {
    uint64_t ino; /* 0: free */
    bool outdated;
};

struct prefills {
    pthread_mutex_t lock;
    pthread_cond_t ended;
    unsigned busy; /* places taken, and threads that wait for one */
    struct prefill places[MOST_AT_ONCE];
};

struct prefills *prefills_new(void)
{
    struct prefills *prefills = calloc(1, sizeof(*prefills));
    if (!prefills)
        return NULL;
    (void)pthread_mutex_init(&prefills->lock, NULL);
    (void)pthread_cond_init(&prefills->ended, NULL);
    return prefills;
}

void prefills_free(struct prefills *prefills)
{
    if (!prefills)
        return;
    (void)pthread_cond_destroy(&prefills->ended);
    (void)pthread_mutex_destroy(&prefills->lock);
    free(prefills);
}

/* With the lock.  0: a free place. */
static struct prefill *find(struct prefills *prefills, uint64_t ino)
{
    for (int i = 0; i < MOST_AT_ONCE; i++)
        if (prefills->places[i].ino == ino)
            return &prefills->places[i];
    return NULL;
}

/* With the lock. */
static void outdate(struct prefills *prefills, uint64_t ino)
{
    struct prefill *prefill = find(prefills, ino);
    if (prefill)
        prefill->outdated = true;
}

struct prefill *prefill_begin(struct prefills *prefills, uint64_t ino, bool patient)
{
    scoped_lock(&prefills->lock);
    if (prefills->busy == MOST_AT_ONCE || (!patient && find(prefills, ino))) {
        outdate(prefills, ino);
        return NULL;
    }
    prefills->busy++;
    while (find(prefills, ino))
        (void)pthread_cond_wait(&prefills->ended, &prefills->lock);
    struct prefill *prefill = find(prefills, 0);
    if (prefill) /* there is one, or the count would be too high */
        *prefill = (struct prefill){.ino = ino};
    return prefill;
}

bool prefill_end(struct prefills *prefills, struct prefill *prefill)
{
    scoped_lock(&prefills->lock);
    prefill->ino = 0;
    prefills->busy--;
    (void)pthread_cond_broadcast(&prefills->ended);
    return !prefill->outdated;
}

void prefill_none(struct prefills *prefills, uint64_t ino)
{
    scoped_lock(&prefills->lock);
    outdate(prefills, ino);
}
