/* SPDX-License-Identifier: MIT */
/*
 * A hash table of all frames, and a list of those that nobody uses, the one that was
 * not used for the longest time first: room is made from there.
 *
 * The lock is not held while a frame is loaded.
 */
#include "store/snapshot_cache.h"

#include <assert.h>
#include <stdbool.h>

struct key {
    uint64_t owner;
    uint64_t number;
};

static unsigned hash_key(const struct key *key)
{
    return (unsigned)((key->owner * UINT64_C(0x9e3779b97f4a7c15) + key->number) *
                          UINT64_C(0xbf58476d1ce4e5b9) >>
                      32);
}

/* uthash must not end the process when memory is short, and its own function is not
 * clean. */
#define HASH_NONFATAL_OOM 1
#define HASH_FUNCTION(key, bytes, hash) (hash) = hash_key((const void *)(key))
#include <uthash.h>
#include <utlist.h>

struct snapshot_frame {
    UT_hash_handle hh;
    struct key key;
    size_t bytes;
    unsigned users;
    bool is_loaded;
    void *data;
    struct snapshot_frame *prev, *next; /* in idle */
};

struct snapshot_cache {
    pthread_mutex_t lock; /* of all below */
    pthread_cond_t loaded;
    struct snapshot_frame *frames;
    struct snapshot_frame *idle; /* loaded, without users */
    size_t bytes;
    size_t max_bytes;
    uint64_t owners;
};

struct snapshot_cache *snapshot_cache_new(size_t max_bytes)
{
    struct snapshot_cache *cache = calloc(1, sizeof(*cache));
    if (!cache)
        return NULL;
    (void)pthread_mutex_init(&cache->lock, NULL);
    (void)pthread_cond_init(&cache->loaded, NULL);
    cache->max_bytes = max_bytes;
    return cache;
}

/* Takes a frame out, that is not idle any more, and frees it. */
static void drop(struct snapshot_cache *cache, struct snapshot_frame *frame)
{
    assert(cache->frames); /* it is one of them */
    HASH_DEL(cache->frames, frame);
    cache->bytes -= frame->bytes;
    free(frame->data);
    free(frame);
}

static void drop_idle(struct snapshot_cache *cache, struct snapshot_frame *frame)
{
    DL_DELETE(cache->idle, frame);
    drop(cache, frame);
}

void snapshot_cache_free(struct snapshot_cache *cache)
{
    if (!cache)
        return;
    while (cache->idle)
        drop_idle(cache, cache->idle);
    assert(!cache->frames);
    (void)pthread_mutex_destroy(&cache->lock);
    (void)pthread_cond_destroy(&cache->loaded);
    free(cache);
}

uint64_t snapshot_cache_owner(struct snapshot_cache *cache)
{
    scoped_lock(&cache->lock);
    return ++cache->owners;
}

void snapshot_cache_forget(struct snapshot_cache *cache, uint64_t owner)
{
    struct snapshot_frame *frame;
    struct snapshot_frame *next;
    scoped_lock(&cache->lock);
    DL_FOREACH_SAFE(cache->idle, frame, next)
    {
        if (frame->key.owner == owner)
            drop_idle(cache, frame);
    }
}

static void make_room(struct snapshot_cache *cache)
{
    while (cache->bytes > cache->max_bytes && cache->idle)
        drop_idle(cache, cache->idle);
}

/* The frame, which nobody has yet, with one user and still to be loaded. */
static struct snapshot_frame *add(struct snapshot_cache *cache, const struct key *key, size_t bytes)
{
    struct snapshot_frame *frame = calloc(1, sizeof(*frame));
    if (!frame)
        return NULL;
    frame->key = *key;
    frame->bytes = bytes;
    frame->users = 1;
    HASH_ADD(hh, cache->frames, key, sizeof(frame->key), frame);
    if (!frame->hh.tbl) {
        free(frame);
        return NULL;
    }
    cache->bytes += bytes;
    make_room(cache);
    return frame;
}

/* Waits until nobody is loading it: the frame with one more user, or NULL. */
static struct snapshot_frame *find(struct snapshot_cache *cache, const struct key *key)
{
    struct snapshot_frame *frame;
    for (;;) {
        HASH_FIND(hh, cache->frames, key, sizeof(*key), frame);
        if (!frame || frame->is_loaded)
            break;
        (void)pthread_cond_wait(&cache->loaded, &cache->lock);
    }
    if (frame && frame->users++ == 0)
        DL_DELETE(cache->idle, frame);
    return frame;
}

static int load_frame(struct snapshot_frame *frame, int (*load)(void *data, void *memory),
                      void *data)
{
    frame->data = malloc(frame->bytes ? frame->bytes : 1);
    return frame->data ? load(data, frame->data) : -ENOMEM;
}

/* Takes in what became of a load. */
static int settle(struct snapshot_cache *cache, struct snapshot_frame *frame, int r)
{
    scoped_lock(&cache->lock);
    frame->is_loaded = true;
    if (r < 0)
        drop(cache, frame);
    (void)pthread_cond_broadcast(&cache->loaded);
    return r;
}

int snapshot_cache_get(struct snapshot_cache *cache, uint64_t owner, uint64_t number, size_t bytes,
                       int (*load)(void *data, void *memory), void *data,
                       struct snapshot_frame **ret_frame)
{
    struct key key = {owner, number};
    (void)pthread_mutex_lock(&cache->lock);
    struct snapshot_frame *frame = find(cache, &key);
    bool is_new = !frame;
    if (is_new)
        frame = add(cache, &key, bytes);
    (void)pthread_mutex_unlock(&cache->lock);
    if (!frame)
        return -ENOMEM;
    int r = is_new ? settle(cache, frame, load_frame(frame, load, data)) : 0;
    if (r == 0)
        *ret_frame = frame;
    return r;
}

void snapshot_cache_put(struct snapshot_cache *cache, struct snapshot_frame *frame)
{
    scoped_lock(&cache->lock);
    if (--frame->users == 0)
        DL_APPEND(cache->idle, frame);
    make_room(cache);
}

const void *snapshot_frame_data(const struct snapshot_frame *frame)
{
    return frame->data;
}

size_t snapshot_cache_bytes(struct snapshot_cache *cache)
{
    scoped_lock(&cache->lock);
    return cache->bytes;
}
