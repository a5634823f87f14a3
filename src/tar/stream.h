/* SPDX-License-Identifier: MIT */
/*
 * The plain bytes of a file that may be compressed with gzip, bzip2, xz or
 * zstd, for tar/reader.c.
 *
 * libarchive does not verify gzip's checksum, and with gzip and bzip2 it takes
 * whatever follows the compressed data for the end (3.6 to 3.8); so gzip is
 * read with zlib, and for the others it is checked here that all of the file
 * was used.  Concatenated streams are one; a compressed stream within another
 * is not unpacked twice.
 */
#ifndef DVOLFS_TAR_STREAM_H
#define DVOLFS_TAR_STREAM_H

#include "base/fail.h"

#include <sys/types.h>

struct tar_stream;

/* The compression is told by the first bytes of fd (as for tar_reader_open). */
must_check int tar_stream_open(int fd, struct tar_stream **ret_stream, struct fail *why);
void tar_stream_close(struct tar_stream *stream);
DEFINE_CLEANUP(cleanup_tar_stream_impl, struct tar_stream, tar_stream_close)
#define cleanup_tar_stream cleanup(cleanup_tar_stream_impl)

/*
 * The next bytes: their number, 0 only at the sound end, and *ret_bytes, valid
 * until the next call.  -EILSEQ: damaged, cut short, or followed by anything but
 * zeros; -ENOMEM; errors of pread.
 */
must_check ssize_t tar_stream_next(struct tar_stream *stream, const void **ret_bytes,
                                   struct fail *why);

#endif
