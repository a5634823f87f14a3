/* SPDX-License-Identifier: MIT */
/*
 * The index of a snapshot that is made of a volume's files: store/index.h.
 *
 * It is written while the archive is read and compressed, by a thread of its own, as if
 * nothing will have gone by then.  Where something has, it is written again.
 */
#ifndef DVOLFS_JOB_CATALOG_H
#define DVOLFS_JOB_CATALOG_H

#include "job/now_archive.h"
#include "store/index.h"

struct catalog;

/* Begins with the entries of a virtual archive, into the empty file at path; both must
 * stay until catalog_free, as must cancel.  NULL: -ENOMEM.  Does not block. */
must_check struct catalog *catalog_begin(const struct now_archive *archive, const char *path,
                                         struct cancel *cancel);

/* Waits, once the archive was read, for all entries but those that were gone then.  The
 * writer is the caller's, for the rest; to be called once.  Errors of index_writer_new and
 * index_add; -ENOMEM, -EMSGSIZE, -EINTR. */
must_check int catalog_end(struct catalog *catalog, struct index_writer **ret_writer,
                           struct fail *why);

/* Gives up what is under way, soon.  NULL is allowed. */
void catalog_free(struct catalog *catalog);
DEFINE_CLEANUP(cleanup_catalog_impl, struct catalog, catalog_free)
#define cleanup_catalog cleanup(cleanup_catalog_impl)

#endif
