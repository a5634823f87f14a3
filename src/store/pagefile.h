/* SPDX-License-Identifier: MIT */
/*
 * An SQLite database that is only ever read, with a hash of each of its pages
 * behind it: each is checked when it is read, so that nothing made of damaged bytes
 * is given out, and opening takes no longer where there are many.
 *
 *   the database, pages of PAGEFILE_PAGE_BYTES
 *   for each page its XXH3 (64 bits)                  (all numbers little-endian)
 *   the mark "dvolfspf", the number of pages, and the XXH3 of the hashes, seeded
 *     with that number (64 bits each)
 *
 * To SQLite's own tools it is a database like any other: they go by the number of
 * pages that stands in its header.
 */
#ifndef DVOLFS_STORE_PAGEFILE_H
#define DVOLFS_STORE_PAGEFILE_H

#include "base/fail.h"

#include <sqlite3.h>

#define PAGEFILE_PAGE_BYTES 4096

struct pagefile;

/* Makes a database that is written and closed such a file; not synced.  -EINVAL: it
 * has pages of another size; errors of open, pread and pwrite. */
must_check int pagefile_finish(const char *path, struct fail *why);

/*
 * Opens such a file; 8 bytes of memory for each page.  -ENODATA: there is none, it was
 * not finished, it was cut short, or its hashes are damaged; -ENOMEM, -errno with why.
 */
must_check int pagefile_open(const char *path, struct pagefile **ret_file, struct fail *why);
/* After the database is closed. */
void pagefile_close(struct pagefile *file);
DEFINE_CLEANUP(cleanup_pagefile_impl, struct pagefile, pagefile_close)
#define cleanup_pagefile cleanup(cleanup_pagefile_impl)

/*
 * Opens the database in it, read-only, as one thread at a time may use it.  SQLITE_OK or
 * SQLite's error; as with sqlite3_open, the database is to be closed in either case.
 * A page that is not what it was fails with SQLITE_IOERR_CORRUPTFS.
 */
must_check int pagefile_database(struct pagefile *file, sqlite3 **ret_db);

/* The errno of the last read that failed with another SQLITE_IOERR. */
int pagefile_errno(const struct pagefile *file);

#endif
