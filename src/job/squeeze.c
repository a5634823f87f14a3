/* SPDX-License-Identifier: MIT */
#include "job/squeeze.h"

#include "base/fd.h"
#include "store/compress.h"

/* Large enough that cutting it costs next to nothing. */
#define CHUNK_BYTES ((size_t)1 << 20)
/* Between gzip -1 and -6 in size, and faster than either. */
#define GZIP_LEVEL 2

struct squeezing {
    const struct squeeze_conf *conf;
    uint64_t in;
    uint64_t out;
};

static int produce(void *data, struct compress_chunk *chunk, struct fail *why)
{
    struct squeezing *squeezing = data;
    const struct squeeze_conf *conf = squeezing->conf;
    ssize_t n = conf->read(conf->data, chunk->data, CHUNK_BYTES, squeezing->in, conf->cancel, why);
    if (n <= 0)
        return (int)n;
    chunk->bytes = (size_t)n;
    squeezing->in += (size_t)n;
    return 1;
}

static int consume(void *data, const struct compress_frame *frame, struct fail *why)
{
    struct squeezing *squeezing = data;
    int r = fd_pwrite_all(squeezing->conf->fd, frame->data, frame->bytes, squeezing->out);
    if (r < 0)
        return fail_errno(why, -r, "cannot write to the spool");
    squeezing->out += frame->bytes;
    job_add_done(squeezing->conf->job, frame->chunk_bytes);
    return 0;
}

int squeeze(const struct squeeze_conf *conf, uint64_t *ret_bytes, struct fail *why)
{
    struct squeezing squeezing = {.conf = conf};
    int r = compress_run(
        &(struct compress_conf){
            .codec = conf->is_gzip ? &codec_gzip : &codec_zstd,
            .level = conf->is_gzip ? GZIP_LEVEL : conf->level,
            .chunk_max_bytes = CHUNK_BYTES,
            .produce = produce,
            .consume = consume,
            .data = &squeezing,
            .cancel = conf->cancel,
        },
        why);
    if (r == 0)
        *ret_bytes = squeezing.out;
    return r;
}
