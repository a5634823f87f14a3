/* SPDX-License-Identifier: MIT */
#include "agent/scouts.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#define MAX_THREADS 3 /* beside the walk's own */
/* To wake a thread costs as much as to list a small directory: it is done for several. */
#define WAITING_TO_WAKE 4
/* Of records that are read between looks at whether anybody wants them still. */
#define PIECE_BYTES ((size_t)1 << 20)

struct place {
    struct place *next;
    enum { WAITING, UNDER_WAY, READY } state;
    unsigned depth;
    int result; /* where it is READY, as records */
    struct buf records;
    char path[];
};

struct scouts {
    int root;
    unsigned flags;
    size_t max_bytes;
    pthread_mutex_t lock;  /* of what follows */
    pthread_cond_t work;   /* for the threads */
    pthread_cond_t listed; /* for the walk */
    struct place *first;   /* as the walk will come to them */
    unsigned waiting;
    size_t ready_bytes;
    atomic_bool stopping;
    bool begun; /* the walk's own, like the next two */
    unsigned thread_count;
    pthread_t threads[MAX_THREADS];
};

struct scouts *scouts_new(int root, unsigned flags, size_t max_bytes)
{
    struct scouts *scouts = calloc(1, sizeof(*scouts));
    if (!scouts)
        return NULL;
    scouts->root = root;
    scouts->flags = flags;
    scouts->max_bytes = max_bytes;
    (void)pthread_mutex_init(&scouts->lock, NULL);
    (void)pthread_cond_init(&scouts->work, NULL);
    (void)pthread_cond_init(&scouts->listed, NULL);
    return scouts;
}

static void place_free(struct place *place)
{
    buf_done(&place->records);
    free(place);
}

void scouts_free(struct scouts *scouts)
{
    if (!scouts)
        return;
    (void)pthread_mutex_lock(&scouts->lock);
    atomic_store(&scouts->stopping, true);
    (void)pthread_cond_broadcast(&scouts->work);
    (void)pthread_mutex_unlock(&scouts->lock);
    for (unsigned i = 0; i < scouts->thread_count; i++)
        (void)pthread_join(scouts->threads[i], NULL);
    while (scouts->first) {
        struct place *next = scouts->first->next;
        place_free(scouts->first);
        scouts->first = next;
    }
    (void)pthread_cond_destroy(&scouts->listed);
    (void)pthread_cond_destroy(&scouts->work);
    (void)pthread_mutex_destroy(&scouts->lock);
    free(scouts);
}

static int list_all(const struct scouts *scouts, const char *path, struct buf *records)
{
    struct listing *listing cleanup_listing = NULL;
    int r = listing_open(scouts->root, path, &listing);
    if (r < 0)
        return r;
    do
        r = atomic_load(&scouts->stopping)
                ? -EINTR
                : listing_next(listing, scouts->flags, PIECE_BYTES, records);
    while (r > 0);
    return r;
}

/* ---- the threads ---------------------------------------------------------------- */

static struct place *next_waiting(struct place *place)
{
    while (place && place->state != WAITING)
        place = place->next;
    return place;
}

/* What to list next; NULL: there is nothing to do now.  The first is left to the walk, which
 * would come and wait for it.  What is far away gets no more than half of the room. */
static struct place *find_work(const struct scouts *scouts)
{
    struct place *first = next_waiting(scouts->first);
    struct place *place = first ? next_waiting(first->next) : NULL;
    if (!place)
        return NULL;
    bool is_near = place->depth == scouts->first->depth;
    return scouts->ready_bytes <= SCOUTS_MAX_READY_BYTES / (is_near ? 1 : 2) ? place : NULL;
}

static void list_place(struct scouts *scouts, struct place *place)
{
    place->state = UNDER_WAY; /* nobody takes it out now */
    scouts->waiting--;
    (void)pthread_mutex_unlock(&scouts->lock);
    place->result = list_all(scouts, place->path, &place->records);
    (void)pthread_mutex_lock(&scouts->lock);
    place->state = READY;
    scouts->ready_bytes += place->records.len;
    (void)pthread_cond_signal(&scouts->listed);
}

static void *scout(void *data)
{
    struct scouts *scouts = data;
    (void)pthread_mutex_lock(&scouts->lock);
    while (!atomic_load(&scouts->stopping)) {
        struct place *place = find_work(scouts);
        if (place)
            list_place(scouts, place);
        else
            (void)pthread_cond_wait(&scouts->work, &scouts->lock);
    }
    (void)pthread_mutex_unlock(&scouts->lock);
    return NULL;
}

/* As many as there are processors that the walk leaves alone. */
static void start_threads(struct scouts *scouts)
{
    if (scouts->begun)
        return;
    scouts->begun = true;
    cpu_set_t set;
    CPU_ZERO(&set);
    int count = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) - 1 : 0;
    for (int i = 0; i < count && i < MAX_THREADS; i++) {
        if (pthread_create(&scouts->threads[i], NULL, scout, scouts) != 0)
            break;
        scouts->thread_count++;
    }
}

/* ---- the walk ------------------------------------------------------------------- */

static void wake_if_worth_it(struct scouts *scouts)
{
    if (scouts->waiting >= WAITING_TO_WAKE)
        (void)pthread_cond_broadcast(&scouts->work);
}

void scouts_expect(struct scouts *scouts, const char *path, unsigned depth)
{
    start_threads(scouts);
    size_t path_bytes = strlen(path) + 1;
    struct place *place = scouts->thread_count > 0 ? calloc(1, sizeof(*place) + path_bytes) : NULL;
    if (!place)
        return;
    place->depth = depth;
    memcpy(place->path, path, path_bytes);
    buf_init(&place->records, scouts->max_bytes);
    (void)pthread_mutex_lock(&scouts->lock);
    struct place **at = &scouts->first;
    while (*at && (*at)->depth >= depth)
        at = &(*at)->next;
    place->next = *at;
    *at = place;
    scouts->waiting++;
    wake_if_worth_it(scouts);
    (void)pthread_mutex_unlock(&scouts->lock);
}

/* Takes it out, listed, or not yet begun; NULL: it was not expected. */
static struct place *take_place(struct scouts *scouts, const char *path)
{
    (void)pthread_mutex_lock(&scouts->lock);
    struct place **at = &scouts->first;
    while (*at && strcmp((*at)->path, path) != 0)
        at = &(*at)->next;
    struct place *place = *at;
    while (place && place->state == UNDER_WAY)
        (void)pthread_cond_wait(&scouts->listed, &scouts->lock);
    if (place) {
        *at = place->next;
        scouts->waiting -= place->state == WAITING;
        scouts->ready_bytes -= place->records.len; /* 0 of one that is WAITING */
        wake_if_worth_it(scouts);
    }
    (void)pthread_mutex_unlock(&scouts->lock);
    return place;
}

int scouts_list(struct scouts *scouts, const char *path, struct buf *records)
{
    struct place *place = take_place(scouts, path);
    bool is_listed = place && place->state == READY && place->result == 0;
    if (is_listed) {
        buf_done(records);
        *records = place->records;
        free(place);
        return 0;
    }
    /* A scout's failure may be due to there being several, without memory or descriptors. */
    if (place)
        place_free(place);
    return list_all(scouts, path, records);
}
