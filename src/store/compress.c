/* SPDX-License-Identifier: MIT */
/*
 * A ring of slots, each filled by the calling thread, compressed by one of the
 * workers and emptied by the consumer's thread.  Three counters that only grow,
 *
 *     emptied <= taken <= filled <= emptied + slot_count
 *
 * say whose a slot is: slot i (modulo slot_count) is the producer's from `filled`
 * on, a worker's once `taken` has passed it, and the consumer's when it is done and
 * `emptied` has come to it.  What is in a slot is touched by its owner alone,
 * without the lock.
 */
#include "store/compress.h"

#include <assert.h>
#include <sched.h>

/* What the codecs need of it is small; a sanitizer build needs more. */
#define STACK_BYTES (1024 * 1024)

struct slot {
    struct compress_chunk chunk;
    void *frame;
    size_t frame_bytes;
    uint32_t checksum;
    bool done; /* by the lock */
};

struct pipeline {
    const struct compress_conf *conf;
    size_t frame_room;
    struct slot *slots;
    size_t slot_count;

    pthread_mutex_t lock;
    pthread_cond_t has_room; /* for the caller */
    pthread_cond_t has_work; /* for the workers */
    pthread_cond_t has_done; /* for the consumer: the frame whose turn it is */
    uint64_t filled;
    uint64_t taken;
    uint64_t emptied;
    bool ended; /* nothing more is filled */
    int error;  /* the first one */
    struct fail why;
};

unsigned compress_threads(void)
{
    cpu_set_t set;
    int count = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
    if (count < 1)
        return 1;
    return count < COMPRESS_THREADS_MAX ? (unsigned)count : COMPRESS_THREADS_MAX;
}

static struct slot *slot_at(struct pipeline *pipeline, uint64_t number)
{
    return &pipeline->slots[number % pipeline->slot_count];
}

/* With the lock held. */
static bool is_stopped(const struct pipeline *pipeline)
{
    return pipeline->error < 0 || cancel_is_raised(pipeline->conf->cancel);
}

/* With the lock held. */
static void wake_all(struct pipeline *pipeline)
{
    (void)pthread_cond_broadcast(&pipeline->has_room);
    (void)pthread_cond_broadcast(&pipeline->has_work);
    (void)pthread_cond_broadcast(&pipeline->has_done);
}

static void stop(struct pipeline *pipeline, int error, const struct fail *why)
{
    scoped_lock(&pipeline->lock);
    if (pipeline->error == 0) {
        pipeline->error = error;
        pipeline->why = *why;
    }
    wake_all(pipeline);
}

static void wake(void *data)
{
    struct pipeline *pipeline = data;
    scoped_lock(&pipeline->lock);
    wake_all(pipeline);
}

/* ---- in ---------------------------------------------------------------------- */

/* The next slot to fill, NULL where it is over. */
static struct slot *empty_slot(struct pipeline *pipeline)
{
    scoped_lock(&pipeline->lock);
    while (!is_stopped(pipeline) && pipeline->filled == pipeline->emptied + pipeline->slot_count)
        (void)pthread_cond_wait(&pipeline->has_room, &pipeline->lock);
    return is_stopped(pipeline) ? NULL : slot_at(pipeline, pipeline->filled);
}

static void hand_in(struct pipeline *pipeline, bool at_end)
{
    scoped_lock(&pipeline->lock);
    if (at_end) {
        pipeline->ended = true;
        wake_all(pipeline);
    } else {
        pipeline->filled++;
        (void)pthread_cond_signal(&pipeline->has_work);
    }
}

static void produce_all(struct pipeline *pipeline)
{
    const struct compress_conf *conf = pipeline->conf;
    struct slot *slot;
    int r = 1;
    while (r > 0 && (slot = empty_slot(pipeline))) {
        struct fail why = FAIL_INIT;
        slot->chunk = (struct compress_chunk){.data = slot->chunk.data};
        r = conf->produce(conf->data, &slot->chunk, &why);
        assert(slot->chunk.bytes <= conf->chunk_max_bytes);
        if (r < 0)
            stop(pipeline, r, &why);
        else
            hand_in(pipeline, r == 0);
    }
}

/* ---- compressing --------------------------------------------------------------- */

/* The next slot to compress, NULL where there will be none. */
static struct slot *filled_slot(struct pipeline *pipeline)
{
    scoped_lock(&pipeline->lock);
    while (!is_stopped(pipeline) && pipeline->taken == pipeline->filled && !pipeline->ended)
        (void)pthread_cond_wait(&pipeline->has_work, &pipeline->lock);
    if (is_stopped(pipeline) || pipeline->taken == pipeline->filled)
        return NULL;
    return slot_at(pipeline, pipeline->taken++);
}

static int compress_slot(const struct pipeline *pipeline, void *context, struct slot *slot,
                         struct fail *why)
{
    const struct codec *codec = pipeline->conf->codec;
    slot->frame_bytes = 0;
    slot->checksum = 0;
    ssize_t n = codec->compress(context, slot->chunk.data, slot->chunk.bytes, slot->frame,
                                pipeline->frame_room, &slot->checksum);
    if (n < 0)
        return fail_set(why, (int)-n, "%s cannot compress", codec->name);
    slot->frame_bytes = (size_t)n;
    return 0;
}

static void mark_done(struct pipeline *pipeline, struct slot *slot)
{
    scoped_lock(&pipeline->lock);
    slot->done = true;
    if (slot == slot_at(pipeline, pipeline->emptied))
        (void)pthread_cond_signal(&pipeline->has_done);
}

static void compress_all(struct pipeline *pipeline, void *context)
{
    struct slot *slot;
    while ((slot = filled_slot(pipeline))) {
        struct fail why = FAIL_INIT;
        int r = compress_slot(pipeline, context, slot, &why);
        if (r < 0)
            stop(pipeline, r, &why);
        else
            mark_done(pipeline, slot);
    }
}

static void *worker_main(void *data)
{
    struct pipeline *pipeline = data;
    void *context = pipeline->conf->codec->open(pipeline->conf->level);
    if (!context) {
        stop(pipeline, -ENOMEM, &(struct fail)FAIL_INIT);
        return NULL;
    }
    compress_all(pipeline, context);
    pipeline->conf->codec->close(context);
    return NULL;
}

/* ---- out --------------------------------------------------------------------- */

/* The next slot to give out, NULL where there will be none. */
static struct slot *done_slot(struct pipeline *pipeline)
{
    scoped_lock(&pipeline->lock);
    struct slot *slot = slot_at(pipeline, pipeline->emptied);
    while (!is_stopped(pipeline) && !slot->done &&
           !(pipeline->ended && pipeline->emptied == pipeline->filled))
        (void)pthread_cond_wait(&pipeline->has_done, &pipeline->lock);
    return is_stopped(pipeline) || !slot->done ? NULL : slot;
}

static int consume_slot(const struct pipeline *pipeline, const struct slot *slot, struct fail *why)
{
    struct compress_frame frame = {
        .data = slot->frame,
        .bytes = slot->frame_bytes,
        .chunk_bytes = slot->chunk.bytes,
        .checksum = slot->checksum,
        .cookie = slot->chunk.cookie,
    };
    return pipeline->conf->consume(pipeline->conf->data, &frame, why);
}

static void give_back(struct pipeline *pipeline, struct slot *slot)
{
    scoped_lock(&pipeline->lock);
    slot->done = false;
    pipeline->emptied++;
    (void)pthread_cond_signal(&pipeline->has_room);
}

/* 1: there may be another one. */
static int consume_next(struct pipeline *pipeline, struct fail *why)
{
    const struct compress_conf *conf = pipeline->conf;
    int r = conf->meanwhile ? conf->meanwhile(conf->data, why) : 0;
    struct slot *slot = r == 0 ? done_slot(pipeline) : NULL;
    if (!slot)
        return r;
    r = consume_slot(pipeline, slot, why);
    if (r < 0)
        return r;
    give_back(pipeline, slot);
    return 1;
}

static void *consumer_main(void *data)
{
    struct pipeline *pipeline = data;
    struct fail why = FAIL_INIT;
    int r;
    while ((r = consume_next(pipeline, &why)) > 0)
        continue;
    if (r < 0)
        stop(pipeline, r, &why);
    return NULL;
}

/* ---- all of it ------------------------------------------------------------------- */

static void free_slots(struct pipeline *pipeline)
{
    for (size_t i = 0; pipeline->slots && i < pipeline->slot_count; i++) {
        free(pipeline->slots[i].chunk.data);
        free(pipeline->slots[i].frame);
    }
    free(pipeline->slots);
}

static int make_slots(struct pipeline *pipeline, unsigned threads)
{
    const struct compress_conf *conf = pipeline->conf;
    pipeline->frame_room = conf->codec->bound(conf->chunk_max_bytes);
    pipeline->slot_count = COMPRESS_SLOTS((size_t)threads);
    pipeline->slots = calloc(pipeline->slot_count, sizeof(*pipeline->slots));
    if (!pipeline->slots)
        return -ENOMEM;
    for (size_t i = 0; i < pipeline->slot_count; i++) {
        struct slot *slot = &pipeline->slots[i];
        slot->chunk.data = malloc(conf->chunk_max_bytes);
        slot->frame = malloc(pipeline->frame_room);
        if (!slot->chunk.data || !slot->frame)
            return -ENOMEM;
    }
    return 0;
}

static int start(struct pipeline *pipeline, void *(*main)(void *data), pthread_t *ret_thread)
{
    pthread_attr_t attr;
    (void)pthread_attr_init(&attr);
    (void)pthread_attr_setstacksize(&attr, STACK_BYTES);
    int err = pthread_create(ret_thread, &attr, main, pipeline);
    (void)pthread_attr_destroy(&attr);
    return err ? -EAGAIN : 0;
}

/* One worker less than wanted is slower, none is a failure. */
static void run_threads(struct pipeline *pipeline, unsigned wanted)
{
    pthread_t consumer;
    if (start(pipeline, consumer_main, &consumer) < 0) {
        stop(pipeline, -EAGAIN, &(struct fail)FAIL_INIT);
        return;
    }
    pthread_t workers[COMPRESS_THREADS_MAX];
    unsigned count = 0;
    while (count < wanted && start(pipeline, worker_main, &workers[count]) == 0)
        count++;
    if (count == 0)
        stop(pipeline, -EAGAIN, &(struct fail)FAIL_INIT);
    else
        produce_all(pipeline);
    while (count > 0)
        (void)pthread_join(workers[--count], NULL);
    (void)pthread_join(consumer, NULL);
}

static int result(const struct pipeline *pipeline, struct fail *why)
{
    if (pipeline->error < 0) {
        if (why && pipeline->why.text[0])
            *why = pipeline->why;
        return pipeline->error;
    }
    bool complete = pipeline->ended && pipeline->emptied == pipeline->filled;
    return complete ? 0 : fail_set(why, EINTR, "cancelled");
}

int compress_run(const struct compress_conf *conf, struct fail *why)
{
    unsigned threads = conf->threads ? conf->threads : compress_threads();
    assert(threads <= COMPRESS_THREADS_MAX);
    struct pipeline pipeline = {.conf = conf};
    int r = make_slots(&pipeline, threads);
    if (r == 0) {
        struct cancel_hook hook = {.run = wake, .data = &pipeline};
        (void)pthread_mutex_init(&pipeline.lock, NULL);
        (void)pthread_cond_init(&pipeline.has_room, NULL);
        (void)pthread_cond_init(&pipeline.has_work, NULL);
        (void)pthread_cond_init(&pipeline.has_done, NULL);
        cancel_hook_add(conf->cancel, &hook);
        run_threads(&pipeline, threads);
        cancel_hook_remove(conf->cancel, &hook);
        (void)pthread_cond_destroy(&pipeline.has_done);
        (void)pthread_cond_destroy(&pipeline.has_work);
        (void)pthread_cond_destroy(&pipeline.has_room);
        (void)pthread_mutex_destroy(&pipeline.lock);
        r = result(&pipeline, why);
    }
    free_slots(&pipeline);
    return r;
}
