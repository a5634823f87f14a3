/* SPDX-License-Identifier: MIT */
/*
 * Who may put a file's contents into the kernel's cache (fuse_lowlevel.h,
 * notify_store), and when.
 *
 * To store a page waits while a READ has it locked, which may still be in the
 * queue: threads that do so must not be all of the session's, so that only a few
 * may at once.  Of one file only one may, lest what was read earlier is stored
 * later; another that wants to waits, and counts among the few.  Who opens the file
 * without storing it, for what reason ever, must say so: what is being stored
 * may be older than that opening.
 * Any thread may call.
 */
#ifndef DVOLFS_FS_PREFILL_H
#define DVOLFS_FS_PREFILL_H

#include "base/cleanup.h"

#include <stdbool.h>
#include <stdint.h>

struct prefills;
/* One that is being stored. */
struct prefill;

/* NULL: out of memory. */
must_check struct prefills *prefills_new(void);
/* NULL is allowed. */
void prefills_free(struct prefills *prefills);

/* Waits for whoever is storing the same file, if `patient`.  NULL: it is not the time;
 * the file is then opened without, and what is being stored of it is known to be outdated. */
must_check struct prefill *prefill_begin(struct prefills *prefills, uint64_t ino, bool patient);

/* Ends what prefill_begin has begun.  False: the file was opened without storing
 * meanwhile, and what was stored must go. */
must_check bool prefill_end(struct prefills *prefills, struct prefill *prefill);

/* Before the answer to an opening of the file that stores nothing. */
void prefill_none(struct prefills *prefills, uint64_t ino);

#endif
