/* SPDX-License-Identifier: MIT */
/*
 * The contents of a volume by the engine's archive calls.
 *
 * Works wherever the API does.  What the engine leaves out of an archive
 * (README, "Ways to the contents") cannot be seen from here; what it cuts short
 * is found and is an error.  Errors are those of the engine (engine/engine.h)
 * and of helper_open, and: -EIO the archive came incomplete, -ENOSPC.
 */
#ifndef DVOLFS_VOLUME_API_H
#define DVOLFS_VOLUME_API_H

#include "tar/scan.h"
#include "volume/helper.h"

#include <stdint.h>

struct api_summary {
    uint64_t bytes; /* of the archive */
    uint64_t members;
    int64_t newest_s; /* mtime of the newest member */
    uint32_t newest_ns;
    /* A directory is so deep that what is in it may be missing: the engine goes by
     * paths of at most 4095 bytes, and leaves longer ones out without a word. */
    bool may_be_cut;
};

/*
 * Writes the volume's archive, "./" first, into the empty file fd.  Returns only
 * when all of it came and its end was checked.
 */
must_check int api_read(struct helpers *helpers, const char *volume, int fd, struct cancel *cancel,
                        struct api_summary *ret_summary, struct fail *why);

/* Calls fn for each file in the volume (the root is ""), without storing anything. */
must_check int api_list(struct helpers *helpers, const char *volume, tar_scan_fn *fn, void *data,
                        struct cancel *cancel, struct fail *why);

/*
 * Unpacks the archive in fd (checked before: tar/check.h) over the volume.
 * cancel is heeded until the engine begins.
 * *ret_begun says whether the engine may have changed the volume before an error.
 * sent (or NULL) is told how many bytes more have been sent.
 */
must_check int api_write(struct helpers *helpers, const char *volume, int fd,
                         void (*sent)(void *data, size_t bytes), void *data, struct cancel *cancel,
                         bool *ret_begun, struct fail *why);

#endif
