/* SPDX-License-Identifier: MIT */
#include "job/ahead.h"

#include <stdbool.h>
#include <string.h>

/* Files that are opened by one call. */
#define BATCH 128
/* After so many openings of others a reader in order has passed a file by. */
#define STALE_OPENINGS (2 * AHEAD_MAX_FILES)

struct item {
    struct item *next;
    enum { QUEUED, OPENING, READY } state;
    uint64_t dev, id;
    size_t small_bytes; /* 0: it is a large one */
    uint64_t announced; /* ahead->openings then */
    int result;         /* where it is READY, as file */
    struct contents_file *file;
    char path[];
};

struct ahead {
    struct contents *contents;
    struct cancel *cancel;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t work;  /* for the thread */
    pthread_cond_t ready; /* for those who wait for what it opens */
    struct item *first;   /* in the order they were announced */
    struct item **end;
    size_t count, queued, small_bytes, large;
    uint64_t openings;
    bool has_thread, stopping;
    pthread_t thread;
};

/* ---- the list, with the lock ----------------------------------------------------- */

static void append(struct ahead *ahead, struct item *item)
{
    *ahead->end = item;
    ahead->end = &item->next;
    ahead->count++;
    ahead->queued++;
    ahead->small_bytes += item->small_bytes;
    ahead->large += item->small_bytes == 0;
}

/* Takes out the item that *at points to. */
static struct item *remove_at(struct ahead *ahead, struct item **at)
{
    struct item *item = *at;
    *at = item->next;
    if (!item->next)
        ahead->end = at;
    item->next = NULL;
    ahead->count--;
    ahead->queued -= item->state == QUEUED;
    ahead->small_bytes -= item->small_bytes;
    ahead->large -= item->small_bytes == 0;
    return item;
}

static struct item **find(struct ahead *ahead, const char *path, uint64_t dev, uint64_t id)
{
    for (struct item **at = &ahead->first; *at; at = &(*at)->next)
        if ((*at)->id == id && (*at)->dev == dev && strcmp((*at)->path, path) == 0)
            return at;
    return NULL;
}

/* Those that the readers have passed by: they are the first. */
static struct item *remove_stale(struct ahead *ahead)
{
    struct item *stale = NULL;
    while (ahead->first && ahead->first->state != OPENING &&
           ahead->openings - ahead->first->announced > STALE_OPENINGS) {
        struct item *item = remove_at(ahead, &ahead->first);
        item->next = stale;
        stale = item;
    }
    return stale;
}

static bool has_room(const struct ahead *ahead, const struct item *item)
{
    return ahead->count < AHEAD_MAX_FILES &&
           ahead->small_bytes + item->small_bytes <= AHEAD_MAX_BYTES &&
           (item->small_bytes > 0 || ahead->large < AHEAD_MAX_LARGE);
}

/* ---- without it -------------------------------------------------------------------- */

static struct item *item_new(const char *path, uint64_t dev, uint64_t id, uint64_t size_bytes)
{
    size_t path_bytes = strlen(path) + 1;
    struct item *item = calloc(1, sizeof(*item) + path_bytes);
    if (!item)
        return NULL;
    item->dev = dev;
    item->id = id;
    item->small_bytes = size_bytes <= CONTENTS_SMALL_BYTES ? (size_t)size_bytes : 0;
    memcpy(item->path, path, path_bytes);
    return item;
}

/* All items behind it as well; closing one may have to wait for the volume. */
static void free_items(struct item *item)
{
    while (item) {
        struct item *next = item->next;
        if (item->file)
            contents_close(item->file);
        free(item);
        item = next;
    }
}

/* ---- the thread ---------------------------------------------------------------------- */

/* Waits for work and takes up to BATCH of it; 0: there will be none. */
static size_t take_batch(struct ahead *ahead, struct item **items, struct contents_want *wants)
{
    scoped_lock(&ahead->lock);
    while (!ahead->stopping && ahead->queued == 0)
        (void)pthread_cond_wait(&ahead->work, &ahead->lock);
    size_t count = 0;
    for (struct item *at = ahead->first; at && count < BATCH && !ahead->stopping; at = at->next) {
        if (at->state != QUEUED)
            continue;
        at->state = OPENING; /* nobody takes it out now */
        ahead->queued--;
        items[count] = at;
        wants[count++] = (struct contents_want){.path = at->path, .dev = at->dev, .id = at->id};
    }
    return count;
}

static void settle_batch(struct ahead *ahead, struct item **items,
                         const struct contents_want *wants, size_t count)
{
    scoped_lock(&ahead->lock);
    for (size_t i = 0; i < count; i++) {
        items[i]->state = READY;
        items[i]->result = wants[i].result;
        items[i]->file = wants[i].file;
    }
    (void)pthread_cond_broadcast(&ahead->ready);
}

static void *ahead_main(void *data)
{
    struct ahead *ahead = data;
    struct item *items[BATCH];
    struct contents_want wants[BATCH];
    size_t count;
    while ((count = take_batch(ahead, items, wants)) > 0) {
        contents_open_many(ahead->contents, wants, count, ahead->cancel);
        settle_batch(ahead, items, wants, count);
    }
    return NULL;
}

/* With the lock.  Where it cannot be started nothing is announced, and all works on. */
static bool start_thread(struct ahead *ahead)
{
    if (!ahead->has_thread)
        ahead->has_thread = pthread_create(&ahead->thread, NULL, ahead_main, ahead) == 0;
    return ahead->has_thread;
}

/* ---- asking ---------------------------------------------------------------------------- */

struct ahead *ahead_new(struct contents *contents)
{
    struct ahead *ahead = calloc(1, sizeof(*ahead));
    if (!ahead)
        return NULL;
    ahead->cancel = cancel_new();
    if (!ahead->cancel) {
        free(ahead);
        return NULL;
    }
    ahead->contents = contents;
    ahead->end = &ahead->first;
    (void)pthread_mutex_init(&ahead->lock, NULL);
    (void)pthread_cond_init(&ahead->work, NULL);
    (void)pthread_cond_init(&ahead->ready, NULL);
    return ahead;
}

static void stop(struct ahead *ahead)
{
    cancel_raise(ahead->cancel);
    scoped_lock(&ahead->lock);
    ahead->stopping = true;
    (void)pthread_cond_broadcast(&ahead->work);
}

void ahead_free(struct ahead *ahead)
{
    if (!ahead)
        return;
    stop(ahead);
    if (ahead->has_thread)
        (void)pthread_join(ahead->thread, NULL);
    free_items(ahead->first);
    (void)pthread_cond_destroy(&ahead->ready);
    (void)pthread_cond_destroy(&ahead->work);
    (void)pthread_mutex_destroy(&ahead->lock);
    cancel_unref(ahead->cancel);
    free(ahead);
}

bool ahead_expect(struct ahead *ahead, const char *path, uint64_t dev, uint64_t id,
                  uint64_t size_bytes)
{
    struct item *item = item_new(path, dev, id, size_bytes);
    struct item *unwanted = item;
    bool taken = false;
    if (!item)
        return false;
    {
        scoped_lock(&ahead->lock);
        struct item *stale = remove_stale(ahead);
        taken = has_room(ahead, item) && start_thread(ahead);
        if (taken) {
            item->announced = ahead->openings;
            append(ahead, item);
            if (ahead->queued == 1)
                (void)pthread_cond_signal(&ahead->work);
            unwanted = stale;
        } else {
            item->next = stale;
        }
    }
    free_items(unwanted);
    return taken;
}

/* The file's item, once it is READY; NULL: it was not announced, or is not begun
 * yet, and the caller is as fast. */
static struct item *take_item(struct ahead *ahead, const char *path, uint64_t dev, uint64_t id,
                              struct cancel *cancel)
{
    scoped_lock(&ahead->lock);
    ahead->openings++;
    struct item **at;
    while ((at = find(ahead, path, dev, id)) && (*at)->state == OPENING &&
           !cancel_is_raised(cancel))
        (void)pthread_cond_wait(&ahead->ready, &ahead->lock);
    return at && (*at)->state != OPENING ? remove_at(ahead, at) : NULL;
}

static void wake_up(void *data)
{
    struct ahead *ahead = data;
    scoped_lock(&ahead->lock);
    (void)pthread_cond_broadcast(&ahead->ready);
}

/* Whether it tells what became of the file; other errors may be gone by now. */
static bool is_final(const struct item *item)
{
    int r = item->result;
    return item->state == READY &&
           (r == 0 || r == -ENOENT || r == -ENOTDIR || r == -ELOOP || r == -ESTALE);
}

int ahead_open(struct ahead *ahead, const char *path, uint64_t dev, uint64_t id,
               struct cancel *cancel, struct contents_file **ret_file)
{
    struct cancel_hook hook = {.run = wake_up, .data = ahead};
    cancel_hook_add(cancel, &hook);
    cleanup_free struct item *item = take_item(ahead, path, dev, id, cancel);
    cancel_hook_remove(cancel, &hook);
    if (!item && cancel_is_raised(cancel))
        return -EINTR;
    if (!item || !is_final(item))
        return contents_open(ahead->contents, path, dev, id, cancel, ret_file);
    if (item->result == 0)
        *ret_file = item->file;
    return item->result;
}
