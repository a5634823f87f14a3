/* SPDX-License-Identifier: MIT */
#include "store/codec.h"

#include <endian.h>
#include <isa-l/igzip_lib.h>
#include <stdbool.h>
#include <string.h>
#include <zstd.h>

static int within(int level, int least, int most)
{
    if (level < least)
        return least;
    return level > most ? most : level;
}

static uint32_t read_le32(const void *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof(value));
    return le32toh(value);
}

/* ---- zstd -------------------------------------------------------------------- */

#define ZSTD_LEVEL_MAX 19

/*
 * At level 3 small chunks are searched with smaller tables, and not for matches of 4 bytes.
 * The library's own choice for up to 256 KiB of input (zstd, clevels.h) takes 1.1 to 1.2
 * times as long for results that are 0.4 (sources) to 2 % (programs) smaller.  With large
 * chunks as much is gained, but up to 5 % is lost (a database).
 */
#define QUICK_LEVEL 3
#define QUICK_BYTES ((size_t)512 * 1024)
static const struct {
    ZSTD_cParameter name;
    int value;
} quick[] = {{ZSTD_c_minMatch, 5}, {ZSTD_c_hashLog, 15}, {ZSTD_c_chainLog, 15}};

struct zstd {
    ZSTD_CCtx *context;
    int level;
};

static bool set(struct zstd *zstd, ZSTD_cParameter name, int value)
{
    return !ZSTD_isError(ZSTD_CCtx_setParameter(zstd->context, name, value));
}

static void zstd_close(void *context)
{
    struct zstd *zstd = context;
    (void)ZSTD_freeCCtx(zstd->context);
    free(zstd);
}

static void *zstd_open(int level)
{
    struct zstd *zstd = malloc(sizeof(*zstd));
    if (!zstd)
        return NULL;
    *zstd = (struct zstd){.context = ZSTD_createCCtx(), .level = within(level, 1, ZSTD_LEVEL_MAX)};
    if (zstd->context && set(zstd, ZSTD_c_compressionLevel, zstd->level) &&
        set(zstd, ZSTD_c_checksumFlag, 1))
        return zstd;
    zstd_close(zstd);
    return NULL;
}

static bool choose_search(struct zstd *zstd, size_t bytes)
{
    bool is_quick = zstd->level == QUICK_LEVEL && bytes <= QUICK_BYTES;
    bool is_set = true;
    for (size_t i = 0; i < sizeof(quick) / sizeof(*quick); i++)
        is_set =
            is_set && set(zstd, quick[i].name, is_quick ? quick[i].value : 0); /* the level's */
    return is_set;
}

static ssize_t zstd_compress(void *context, const void *in, size_t bytes, void *out, size_t room,
                             uint32_t *ret_checksum)
{
    struct zstd *zstd = context;
    if (!choose_search(zstd, bytes))
        return -EIO;
    size_t n = ZSTD_compress2(zstd->context, out, room, in, bytes);
    if (ZSTD_isError(n) || n < sizeof(uint32_t))
        return -EIO;
    /* The checksum is what a frame ends with. */
    *ret_checksum = read_le32((const char *)out + n - sizeof(uint32_t));
    return (ssize_t)n;
}

const struct codec codec_zstd = {
    .name = "zstd",
    .bound = ZSTD_compressBound,
    .open = zstd_open,
    .close = zstd_close,
    .compress = zstd_compress,
};

/* ---- gzip -------------------------------------------------------------------- */

#define GZIP_TRAILER_BYTES 8 /* CRC-32, then the length */

struct gzip {
    struct isal_zstream stream;
    uint32_t level;
    uint8_t work[ISAL_DEF_LVL3_EXTRA_LARGE];
};
_Static_assert(ISAL_DEF_LVL3_EXTRA_LARGE >= ISAL_DEF_LVL1_EXTRA_LARGE &&
                   ISAL_DEF_LVL3_EXTRA_LARGE >= ISAL_DEF_LVL2_EXTRA_LARGE,
               "the work buffer does for each level");

static void *gzip_open(int level)
{
    struct gzip *gzip = calloc(1, sizeof(*gzip));
    if (gzip)
        gzip->level = (uint32_t)within(level, 1, ISAL_DEF_MAX_LEVEL);
    return gzip;
}

static void gzip_close(void *context)
{
    free(context);
}

/* Far more than the stored blocks that it falls back to need; gzip_compress tells
 * when it was not enough. */
static size_t gzip_bound(size_t bytes)
{
    return bytes + bytes / 8 + 4096;
}

static ssize_t gzip_compress(void *context, const void *in, size_t bytes, void *out, size_t room,
                             uint32_t *ret_checksum)
{
    struct gzip *gzip = context;
    if (bytes > UINT32_MAX || room > UINT32_MAX)
        return -EIO;
    isal_deflate_init(&gzip->stream);
    gzip->stream.level = gzip->level;
    gzip->stream.level_buf = gzip->work;
    gzip->stream.level_buf_size = sizeof(gzip->work);
    gzip->stream.gzip_flag = IGZIP_GZIP;
    gzip->stream.end_of_stream = 1;
    gzip->stream.next_in = (uint8_t *)(uintptr_t)in;
    gzip->stream.avail_in = (uint32_t)bytes;
    gzip->stream.next_out = out;
    gzip->stream.avail_out = (uint32_t)room;
    if (isal_deflate(&gzip->stream) != COMP_OK || gzip->stream.internal_state.state != ZSTATE_END ||
        gzip->stream.total_out < GZIP_TRAILER_BYTES)
        return -EIO;
    *ret_checksum = read_le32((const char *)out + gzip->stream.total_out - GZIP_TRAILER_BYTES);
    return (ssize_t)gzip->stream.total_out;
}

const struct codec codec_gzip = {
    .name = "gzip",
    .bound = gzip_bound,
    .open = gzip_open,
    .close = gzip_close,
    .compress = gzip_compress,
};
