/* SPDX-License-Identifier: MIT */
/* The index of a snapshot that was made of a volume's files: store/index.h. */
#ifndef DVOLFS_JOB_CATALOG_H
#define DVOLFS_JOB_CATALOG_H

#include "job/now_archive.h"
#include "store/index.h"

/* Adds all entries of a virtual archive, which was read, but for those that were gone
 * then.  Errors of index_add; -ENOMEM, -EMSGSIZE. */
must_check int catalog_write(const struct now_archive *archive, struct index_writer *writer,
                             struct fail *why);

#endif
