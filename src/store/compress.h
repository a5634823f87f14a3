/* SPDX-License-Identifier: MIT */
/*
 * Compression on all processors, in order, with bounded memory: chunks go in one
 * after another, each is compressed to a frame by whichever thread is free, and
 * the frames come out in the order the chunks went in.
 *
 * At any time no more than COMPRESS_SLOTS(threads) chunks are between in and out,
 * each with memory for itself and its frame.
 */
#ifndef DVOLFS_STORE_COMPRESS_H
#define DVOLFS_STORE_COMPRESS_H

#include "base/cancel.h"
#include "base/fail.h"
#include "store/codec.h"

#define COMPRESS_THREADS_MAX 16
#define COMPRESS_SLOTS(threads) ((threads)*2 + 6)

/* What goes in. */
struct compress_chunk {
    void *data;      /* room for chunk_max_bytes; the pipeline's */
    size_t bytes;    /* 0 at first; to be set */
    uint64_t cookie; /* 0 at first; the caller's own, comes out again */
};

/* What comes out. */
struct compress_frame {
    const void *data; /* valid until consume returns */
    size_t bytes;
    size_t chunk_bytes;
    uint32_t checksum; /* see codec.h */
    uint64_t cookie;
};

struct compress_conf {
    const struct codec *codec;
    int level;
    unsigned threads; /* that compress, up to COMPRESS_THREADS_MAX; 0: one for each processor */
    size_t chunk_max_bytes;

    /*
     * Called in the thread that called compress_run, one at a time.  Fills the
     * chunk in: 1, 0 at the end (with nothing filled in), or -errno with why.
     * Where it waits for long it has to look at cancel itself.
     */
    int (*produce)(void *data, struct compress_chunk *chunk, struct fail *why);

    /* Called in another thread, one at a time and in order, while produce may be
     * running: 0 or -errno with why. */
    int (*consume)(void *data, const struct compress_frame *frame, struct fail *why);

    /* Optional (NULL): called by the same thread before it waits for each frame, and for the
     * end, for what else it has to do by then: 0 or -errno with why. */
    int (*meanwhile)(void *data, struct fail *why);

    void *data;            /* for all of them */
    struct cancel *cancel; /* may be NULL */
};

/*
 * Runs until all that was produced is consumed: 0.  Or until the first failure,
 * which it returns with why: that of a callback; -EINTR: cancelled; -ENOMEM;
 * -EAGAIN: no thread could be started; -EIO: the codec's.  The callback that
 * failed is not called again, and soon none of the others.  No thread is left when it returns.
 */
must_check int compress_run(const struct compress_conf *conf, struct fail *why);

/* The number of threads that stands behind 0: at least 1, at most COMPRESS_THREADS_MAX. */
unsigned compress_threads(void);

#endif
