/* SPDX-License-Identifier: MIT */
/*
 * Follows a plain tar stream as it passes by, and says whether it is whole.
 *
 * The engine ends an archive it could not finish like any other response: the
 * HTTP body is complete, the tar in it is not (moby/go-archive, Tarballer.Do:
 * after a file shrank every later header fails and the two closing blocks are
 * missing).  So what counts is the tar's own end: the last member complete and
 * two blocks of zeros.
 *
 * Understands what Go's archive/tar writes on that path (ustar with pax
 * headers, GNU base-256 numbers) and nothing more.  Bytes may be pushed in
 * pieces of any length.  Memory is bounded by the largest pax header allowed.
 */
#ifndef DVOLFS_TAR_SCAN_H
#define DVOLFS_TAR_SCAN_H

#include "base/fail.h"
#include "tar/entry.h"

struct tar_scan;

/*
 * Called for each member, when its header is complete, before its data.  Only
 * name, link_target, is_hard_link, mode, uid, gid, mtime, size and device are
 * filled in; `entry` is valid during the call.  A negative errno ends the scan
 * with it (and should set why).
 */
typedef int tar_scan_fn(void *data, const struct tar_entry *entry, struct fail *why);

/* A scan at the beginning of a stream; fn may be NULL.  NULL: out of memory. */
must_check struct tar_scan *tar_scan_new(tar_scan_fn *fn, void *data);
void tar_scan_free(struct tar_scan *scan);
DEFINE_CLEANUP(cleanup_tar_scan_impl, struct tar_scan, tar_scan_free)
#define cleanup_tar_scan cleanup(cleanup_tar_scan_impl)

/*
 * Takes the next bytes.  -EILSEQ: not a tar, a bad checksum, or data other than
 * zeros after the end; -ENOMEM; what fn returned.  After an error only _free.
 */
must_check int tar_scan_push(struct tar_scan *scan, const void *bytes, size_t len,
                             struct fail *why);

/* To be called at the end of the stream: 0 where it is whole, else -EILSEQ. */
must_check int tar_scan_finish(const struct tar_scan *scan, struct fail *why);

/* Of the members so far: how many, and the newest mtime (0, 0 before the first). */
uint64_t tar_scan_count(const struct tar_scan *scan);
void tar_scan_newest(const struct tar_scan *scan, int64_t *ret_s, uint32_t *ret_ns);

#endif
