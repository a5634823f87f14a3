/* SPDX-License-Identifier: MIT */
/*
 * Turns any archive tar/reader.h takes into the plain pax tar that the engine's
 * PUT archive takes, piece by piece as it is asked for: nothing is stored.
 *
 * Needed always, not just for dialects the engine lacks (old-GNU sparse
 * members; zstd before 23.0, moby e187eb2bb5): the engine ignores a "./" entry
 * on the way in, so that the volume root's owner and mode are restored only by
 * a member with a name, which means a prefix on every name (moby
 * pkg/archive Unpack: `name == "."` is skipped).  It also sets a directory's default ACL
 * before it unpacks what is in it: see tar/default_acls.h.
 */
#ifndef DVOLFS_TAR_CONVERT_H
#define DVOLFS_TAR_CONVERT_H

#include "base/fail.h"

#include <stddef.h>
#include <sys/types.h>

struct tar_convert;

/* What the archive is for. */
enum tar_convert_use {
    TAR_CONVERT_TO_KEEP,   /* each member as it is */
    TAR_CONVERT_TO_UNPACK, /* default ACLs last (tar/default_acls.h), no foreign attributes */
};

/* prefix as for tar_header_write, copied.  fd and errors as for tar_reader_open. */
must_check int tar_convert_open(int fd, const char *prefix, enum tar_convert_use use,
                                struct tar_convert **ret_convert, struct fail *why);
void tar_convert_close(struct tar_convert *convert);
DEFINE_CLEANUP(cleanup_tar_convert_impl, struct tar_convert, tar_convert_close)
#define cleanup_tar_convert cleanup(cleanup_tar_convert_impl)

/*
 * Fills out with the next bytes of the converted archive: their number, at most
 * max_bytes and 0 only at the end, after the closing blocks.  Errors as
 * tar_reader_next.  Memory is bounded (one header, one piece of data; to unpack also
 * what default_acls.h notes); holes are written as zeros.
 */
must_check ssize_t tar_convert_read(struct tar_convert *convert, void *out, size_t max_bytes,
                                    struct fail *why);

#endif
