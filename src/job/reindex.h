/* SPDX-License-Identifier: MIT */
/* The index of a kept snapshot, made again from its archive: it was put there without one,
 * or the one it had is damaged. */
#ifndef DVOLFS_JOB_REINDEX_H
#define DVOLFS_JOB_REINDEX_H

#include "base/cancel.h"
#include "job/jobs.h"
#include "store/store.h"

/*
 * Reads all of the archive in fd and puts the index beside it.  When it was taken is when
 * its file was written; nothing is known of its consistency but that it is "imported";
 * no frame of it will be taken over.
 *
 * -EBADMSG: the archive is damaged, or was not made by us; -ENOSPC, ... of the store;
 * -EINTR.  Blocks.
 */
must_check int reindex_run(struct store *store, const char *volume, const char *name, int fd,
                           struct job *job, struct cancel *cancel, struct fail *why);

#endif
