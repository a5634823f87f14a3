/* SPDX-License-Identifier: MIT */
/*
 * From an archive that is cut into frames to the file that is kept: what an earlier
 * snapshot has is taken over from there, all else is read and compressed on all
 * processors.
 */
#ifndef DVOLFS_JOB_PACK_H
#define DVOLFS_JOB_PACK_H

#include "base/cancel.h"
#include "job/earlier.h"
#include "job/jobs.h"

#include <stdbool.h>

/* What is known of a frame. */
struct pack_frame {
    struct frame_key key;
    int32_t from;    /* where it is in the earlier one's table, -1: nowhere; stays so */
    uint64_t stored; /* frame_stored_hash; set when it is packed */
    bool has_key;    /* the next snapshot may take it over */
};

struct pack {
    const struct frames *frames;
    struct pack_frame *known; /* of each frame; NULL: nothing is known */
    struct earlier *earlier;  /* NULL: nothing is taken over */

    /* The frame's bytes, all of them: 0, or -errno with why.  Called by one thread, in order;
     * may take known[index].has_key back. */
    int (*read)(void *data, uint64_t index, const struct frames_frame *frame, void *buf,
                struct fail *why);
    void *data;

    int fd; /* an empty file */
    int level;
    unsigned block_bytes; /* of the store: see seekable_writer_new */
    struct job *job;      /* is told what is done */
    struct cancel *cancel;
};

struct pack_result {
    uint8_t sha256[SEEKABLE_SHA256_BYTES]; /* of the file */
    uint64_t file_bytes;
    uint64_t shared_bytes;
    uint64_t taken_frames;
    uint64_t read_bytes;
};

/* Writes the file; it is not synced.  Errors of read, compress_run and store/seekable.h;
 * -EBADMSG: the earlier one is damaged; -EFBIG: more frames than there may be.  Blocks. */
must_check int pack_run(const struct pack *pack, struct pack_result *ret_result, struct fail *why);

/* How many frames a pack may have. */
#define PACK_MAX_FRAMES (SEEKABLE_FRAMES_MAX / 2 - 2)

#endif
