/* SPDX-License-Identifier: MIT */
/*
 * The bytes that stand before a member's data in a pax archive.  Pure.
 *
 * Format: POSIX.1-2017 pax, "ustar Interchange Format" and "pax Extended
 * Header"; SCHILY.xattr.* as star(5) and GNU tar write them.  A pax header is
 * written only where ustar cannot hold the value exactly: mtime with
 * nanoseconds or out of range, ids over 2097151, sizes of 8 GiB and more,
 * names that do not fit, attributes.  Readers that matter: GNU tar, bsdtar,
 * busybox, python, and Go's archive/tar in the engine.
 */
#ifndef DVOLFS_TAR_HEADER_H
#define DVOLFS_TAR_HEADER_H

#include "base/buf.h"
#include "tar/entry.h"

#define TAR_BLOCK_BYTES 512
/* Two blocks of zeros end an archive. */
#define TAR_END_BYTES 1024

/*
 * Appends the header blocks of entry to out, always a multiple of
 * TAR_BLOCK_BYTES.  The member is called prefix + entry->name ('/' appended to a
 * directory; prefix is "" or ends in '/'); a hard link's target gets the same
 * prefix.  The root entry ("") is prefix itself, or "./" where prefix is "".
 * The entry's extents are not looked at: the member is written as a plain
 * file of size_bytes, whose data and padding the caller appends.  ACLs among the
 * attributes are written as SCHILY.acl.* too, for tars that take them only so.
 * Sockets have no type in tar: -EINVAL, as for any unknown type, a link without
 * a target, a root that is no directory.  -ENOMEM, -EMSGSIZE.
 */
must_check int tar_header_write(struct buf *out, const char *prefix, const struct tar_entry *entry);

/*
 * As tar_header_write with the prefix "./", and where entry has extents (not NULL)
 * with the records of GNU's sparse format 1.0.  stored_bytes is what follows of such a file: its
 * map and its runs, each of which must begin at a whole block (GNU tar reads them so).
 */
must_check int tar_header_write_stored(struct buf *out, const struct tar_entry *entry,
                                       uint64_t stored_bytes);

/*
 * Appends `bytes` (whole blocks) that change nothing for whoever unpacks them:
 * the headers of directory once more, which stands earlier in the archive,
 * without its attributes other than ACLs and with a comment that fills the
 * space.  Where that is too small, bare headers, whose mtime has no fraction.
 * Errors as tar_header_write.
 */
must_check int tar_header_write_filler(struct buf *out, const struct tar_entry *directory,
                                       size_t bytes);

/* Bytes of zeros that follow size_bytes of data, to the next block. */
unsigned tar_padding_bytes(uint64_t size_bytes);

#endif
