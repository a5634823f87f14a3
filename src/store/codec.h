/* SPDX-License-Identifier: MIT */
/*
 * What makes one chunk of bytes into one compressed frame: zstd, and gzip by
 * ISA-L, which is several times faster than zlib.  Frames are independent, and
 * one after another they are a sound .zst or .gz file.
 *
 * The same chunk at the same level gives the same frame, whatever the context
 * was used for before (but not for ever: another release of the library may
 * find a better one).  A context is for one thread at a time.
 */
#ifndef DVOLFS_STORE_CODEC_H
#define DVOLFS_STORE_CODEC_H

#include "base/cleanup.h"

#include <stdint.h>
#include <sys/types.h>

struct codec {
    const char *name;

    /* An upper bound on the frame of that many bytes. */
    size_t (*bound)(size_t bytes);

    /* NULL: out of memory.  A level out of the codec's range is the nearest in it. */
    void *(*open)(int level);
    void (*close)(void *context);

    /*
     * Makes `in` one frame in `out`, which has room for bound(bytes): the bytes of
     * the frame, and the checksum of `in` that stands in it (below).  -EIO: the
     * library refused.
     */
    ssize_t (*compress)(void *context, const void *in, size_t bytes, void *out, size_t room,
                        uint32_t *ret_checksum);
};

/* Content size and checksum are set; the checksum is the low half of XXH64, the
 * one that a seek table wants (RFC 8878, 3.1.1).  Levels as zstd(1), without --ultra. */
extern const struct codec codec_zstd;

/* No name and no time in the header; the checksum is CRC-32 (RFC 1952).  Levels 1 to 3. */
extern const struct codec codec_gzip;

#endif
