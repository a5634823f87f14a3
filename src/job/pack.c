/* SPDX-License-Identifier: MIT */
#include "job/pack.h"

#include "store/compress.h"

#include <assert.h>

/* Frames, with the padding between them, that are taken over at once. */
#define RUN_FRAMES 256

struct packing {
    const struct pack *pack;
    uint64_t next; /* the producer's */
    /* The consumer's: */
    uint64_t placed; /* frames that are in the file, or in the run */
    struct seekable_writer *writer;
    struct seekable_frame run[RUN_FRAMES];
    size_t run_count;
    size_t run_end; /* where in the earlier one's table it goes on */
    struct pack_result result;
};

/* ---- in ---------------------------------------------------------------------------- */

static bool is_known(const struct pack *pack, uint64_t index)
{
    return pack->earlier && pack->known && pack->known[index].from >= 0;
}

static int produce(void *data, struct compress_chunk *chunk, struct fail *why)
{
    struct packing *packing = data;
    const struct pack *pack = packing->pack;
    /* What is taken over does not come this way: it would be in the way of what is. */
    while (packing->next < frames_count(pack->frames) && is_known(pack, packing->next))
        packing->next++;
    if (packing->next == frames_count(pack->frames))
        return 0;
    struct frames_frame frame;
    frames_frame(pack->frames, packing->next, &frame);
    chunk->cookie = packing->next++;
    chunk->bytes = (size_t)frame.bytes;
    int r = pack->read(pack->data, frame.index, &frame, chunk->data, why);
    return r < 0 ? r : 1;
}

/* ---- out --------------------------------------------------------------------------- */

static int end_run(struct packing *packing, struct fail *why)
{
    if (packing->run_count == 0)
        return 0;
    int r = seekable_add_from(packing->writer, earlier_fd(packing->pack->earlier), packing->run,
                              packing->run_count, why);
    packing->run_count = 0;
    return r;
}

/* Adds the frame to the run, with the padding before it, if it goes on there. */
static int add_to_run(struct packing *packing, size_t place, struct fail *why)
{
    const struct seekable *seekable = earlier_seekable(packing->pack->earlier);
    struct seekable_frame before;
    if (packing->run_count > 0 && place == packing->run_end + 1) {
        seekable_frame(seekable, packing->run_end, &before);
        if (before.bytes == 0 && packing->run_count + 1 < RUN_FRAMES) {
            packing->run[packing->run_count++] = before;
            packing->run_end++;
        }
    }
    if (packing->run_count == RUN_FRAMES || place != packing->run_end) {
        int r = end_run(packing, why);
        if (r < 0)
            return r;
    }
    seekable_frame(seekable, place, &packing->run[packing->run_count++]);
    packing->run_end = place + 1;
    return 0;
}

/* Its bytes are looked at on the way: what was found in the index alone may be damaged. */
static int take_over(struct packing *packing, uint64_t index, struct fail *why)
{
    const struct pack *pack = packing->pack;
    struct pack_frame *known = &pack->known[index];
    size_t place = (size_t)known->from;
    const void *data;
    int r = earlier_read(pack->earlier, known->key, place, &data, &known->stored);
    if (r < 0)
        return fail_errno(why, -r, "the earlier snapshot");
    struct seekable_frame frame;
    seekable_frame(earlier_seekable(pack->earlier), place, &frame);
    packing->result.taken_frames++;
    job_add_done(pack->job, frame.bytes);
    if (pack->block_bytes > 0) /* it may be shared */
        return add_to_run(packing, place, why);
    return seekable_add_frame(packing->writer, data, frame.file_bytes, frame.bytes, frame.checksum,
                              why);
}

/* Those that come next in the file, while frames behind them are read and compressed. */
static int take_over_next(void *data, struct fail *why)
{
    struct packing *packing = data;
    const struct pack *pack = packing->pack;
    int r = 0;
    for (; packing->placed < frames_count(pack->frames) && is_known(pack, packing->placed);
         packing->placed++) {
        r = cancel_is_raised(pack->cancel) ? fail_set(why, EINTR, "interrupted")
                                           : take_over(packing, packing->placed, why);
        if (r < 0)
            return r;
    }
    return end_run(packing, why);
}

static int consume(void *data, const struct compress_frame *frame, struct fail *why)
{
    struct packing *packing = data;
    assert(frame->cookie == packing->placed); /* all before it were taken over, meanwhile */
    packing->placed++;
    if (packing->pack->known)
        packing->pack->known[frame->cookie].stored = frame_stored_hash(frame->data, frame->bytes);
    packing->result.read_bytes += frame->chunk_bytes;
    job_add_done(packing->pack->job, frame->chunk_bytes);
    return seekable_add_frame(packing->writer, frame->data, (uint32_t)frame->bytes,
                              (uint32_t)frame->chunk_bytes, frame->checksum, why);
}

/* ---- all of it ----------------------------------------------------------------------- */

static int run(struct packing *packing, struct fail *why)
{
    const struct pack *pack = packing->pack;
    int r = compress_run(
        &(struct compress_conf){
            .codec = &codec_zstd,
            .level = pack->level,
            .chunk_max_bytes = FRAMES_MAX_BYTES,
            .produce = produce,
            .consume = consume,
            .meanwhile = take_over_next,
            .data = packing,
            .cancel = pack->cancel,
        },
        why);
    if (r == 0 && packing->placed != frames_count(pack->frames))
        r = fail_set(why, EIO, "frames are missing");
    if (r == 0)
        r = seekable_finish(packing->writer, packing->result.sha256, why);
    packing->result.file_bytes = seekable_file_bytes(packing->writer);
    packing->result.shared_bytes = seekable_shared_bytes(packing->writer);
    return r;
}

int pack_run(const struct pack *pack, struct pack_result *ret_result, struct fail *why)
{
    if (frames_count(pack->frames) > PACK_MAX_FRAMES)
        return fail_set(why, EFBIG, "it is too large to be kept");
    cleanup_free struct packing *packing = calloc(1, sizeof(*packing));
    if (!packing)
        return fail_errno(why, ENOMEM, "packing");
    packing->pack = pack;
    packing->writer = seekable_writer_new(pack->fd, pack->block_bytes);
    int r = packing->writer ? run(packing, why) : fail_errno(why, ENOMEM, "packing");
    seekable_writer_free(packing->writer);
    if (r == 0)
        *ret_result = packing->result;
    return r;
}
