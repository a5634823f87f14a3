/* SPDX-License-Identifier: MIT */
/*
 * What is in a tar that is complete, and where: read from end to end, for its frames and
 * for its index.
 *
 * As for tar, the later of two members of one name counts, and a directory that has no
 * member of its own is there all the same.
 *
 * Memory: about 300 bytes for each member, its name, and what only some have.
 */
#ifndef DVOLFS_JOB_MEMBERS_H
#define DVOLFS_JOB_MEMBERS_H

#include "base/cancel.h"
#include "base/fail.h"
#include "job/jobs.h"
#include "store/frames.h"
#include "store/index.h"

struct members;

/*
 * Reads the archive in fd, which tar/reader.h takes and which is `bytes` long when it is
 * decompressed.  Where frames are given they are filled, and finished.  What is
 * read is told to job, which may be NULL.
 *
 * -EBADMSG: it is no tar, damaged, or makes no tree of files; -EINTR; -ENOMEM; errors
 * of pread.  Blocks.
 */
must_check int members_read(int fd, uint64_t bytes, struct frames *frames, struct job *job,
                            struct cancel *cancel, struct members **ret_members, struct fail *why);
void members_free(struct members *members);
DEFINE_CLEANUP(cleanup_members_impl, struct members, members_free)
#define cleanup_members cleanup(cleanup_members_impl)

/* Adds all of them.  Errors of index_add. */
must_check int members_write(struct members *members, struct index_writer *writer,
                             struct fail *why);

#endif
