/* SPDX-License-Identifier: MIT */
/*
 * Reads an archive a user brought: any tar dialect libarchive knows (ustar,
 * pax, GNU incl. sparse and long names, v7), plain or compressed with gzip,
 * zstd, xz or bzip2.  Nothing else: formats and filters are enabled by name,
 * and no filter ever runs a program.
 *
 * The reader is strict where tar(1) is lax, because what it accepts is applied
 * to people's data: it must be a tar (an empty file is none), every checksum
 * must fit, the two closing blocks must be there, the compressed stream must be
 * complete with its own checksum, and nothing but zeros may follow (another
 * archive appended would be lost silently).
 *
 * Not locked: one thread at a time.  Blocks on the disk only.
 */
#ifndef DVOLFS_TAR_READER_H
#define DVOLFS_TAR_READER_H

#include "base/cancel.h"
#include "base/fail.h"
#include "tar/entry.h"

struct tar_reader;

/*
 * Opens the archive in fd (a regular file, read with pread from 0; must stay
 * open and unchanged as long as the reader; not closed).  -EILSEQ where it is
 * empty or is plainly no archive we take; -ENOMEM; errors of pread, here and
 * below.  The program's locale does not matter.
 */
must_check int tar_reader_open(int fd, struct tar_reader **ret_reader, struct fail *why);
void tar_reader_close(struct tar_reader *reader);
DEFINE_CLEANUP(cleanup_tar_reader_impl, struct tar_reader, tar_reader_close)
#define cleanup_tar_reader cleanup(cleanup_tar_reader_impl)

/*
 * The next member: 1 and *ret_entry filled (owned by the caller, who calls
 * tar_entry_done), or 0 at the sound end of the archive.  Data of the member
 * before that was not read is skipped, and still checked.
 * -EILSEQ: damaged or cut short; -ENOMEM.  An error stays: so do later calls fail.
 *
 * Names: "." components and doubled or trailing '/' are dropped (see
 * tar_entry_clean_name); "." and "./" are the root, "".  Leading '/' and ".." are
 * left in place: they are for tar_check to refuse.  mtime before 1970 is kept.  uid and gid are the
 * archive's numbers; user and group names are ignored.  Attributes come from
 * SCHILY.xattr and LIBARCHIVE.xattr records; POSIX ACLs (SCHILY.acl.*) become
 * the attributes system.posix_acl_access and system.posix_acl_default in the
 * kernel's binary form (linux/posix_acl_xattr.h, version 2), where they say
 * more than the mode and the member has no such attribute; one that is not valid, or
 * names a user or group without a number, is -EILSEQ.  A sparse member has its extents.
 */
must_check int tar_reader_next(struct tar_reader *reader, struct tar_entry *ret_entry,
                               struct fail *why);

/*
 * Where the current member stands in the archive as it is decompressed: its headers, and
 * the first byte that is stored of its data (behind a sparse file's map).  After
 * tar_reader_next returned 0: where the closing blocks begin, twice.  Not to be called
 * after tar_reader_data.
 */
void tar_reader_position(const struct tar_reader *reader, uint64_t *ret_headers,
                         uint64_t *ret_data);

/*
 * The next run of the current member's data: 1 with *ret_data (valid until the
 * next call), its length (> 0) and its offset in the file, or 0 at the member's
 * end.  Runs ascend and do not overlap; what lies between is zeros.
 * -EILSEQ: damaged or cut short.
 */
must_check int tar_reader_data(struct tar_reader *reader, const void **ret_data, size_t *ret_bytes,
                               uint64_t *ret_offset, struct fail *why);

#endif
