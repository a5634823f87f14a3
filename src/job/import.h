/* SPDX-License-Identifier: MIT */
/* A kept snapshot, made of an archive that somebody brought. */
#ifndef DVOLFS_JOB_IMPORT_H
#define DVOLFS_JOB_IMPORT_H

#include "job/spool.h"
#include "job/take.h"

/*
 * Keeps the archive in fd (any that tar/reader.h takes) after checking all of it, as for
 * a restore.  What is kept is a tar of ours, so that all that is said of kept snapshots
 * is true of it as well: pax, names beginning with "./", but holes are zeros in it (which
 * take no room to speak of).
 *
 * Errors of tar_check_run and take_tar.  Blocks.
 */
must_check int import_run(const struct take_conf *conf, struct spool *spool, int fd,
                          struct cancel *cancel, struct take_result *ret_result, struct fail *why);

#endif
