/* SPDX-License-Identifier: MIT */
/*
 * How an index is laid out in its database, and what makes sense in one: what the
 * writer and the reader of store/index.h have in common, and nobody else's.
 *
 * Three tables, made in one transaction and without a journal: what is not finished is
 * thrown away.  A second name of a file is no more than that, all else is the first's.
 */
#ifndef DVOLFS_STORE_INDEX_FORM_H
#define DVOLFS_STORE_INDEX_FORM_H

#include "store/index.h"

#include <limits.h>
#include <sqlite3.h>

#define INDEX_FORM_EXTENT_BYTES 16 /* as agent/file.h packs it */
/* The largest value is a file's extents. */
#define INDEX_FORM_VALUE_MAX_BYTES (FILE_MAX_EXTENTS * INDEX_FORM_EXTENT_BYTES)
#define INDEX_FORM_RECORD_MAX_BYTES (INDEX_FORM_VALUE_MAX_BYTES + FILE_MAX_XATTR_BYTES + 65536)
#define INDEX_FORM_LINK_MAX_BYTES (PATH_MAX - 1)

/* The statements that make the database, in this order. */
#define INDEX_FORM_TABLES 4
extern const char *const index_form_schema[INDEX_FORM_TABLES];

/* The columns of an entry in the order of all statements. */
enum {
    INDEX_COLUMN_ID,
    INDEX_COLUMN_PARENT,
    INDEX_COLUMN_TARGET,
    INDEX_COLUMN_NAME,
    INDEX_COLUMN_MODE,
    INDEX_COLUMN_NLINK,
    INDEX_COLUMN_UID,
    INDEX_COLUMN_GID,
    INDEX_COLUMN_SIZE,
    INDEX_COLUMN_MTIME_S,
    INDEX_COLUMN_MTIME_NS,
    INDEX_COLUMN_RDEV_MAJOR,
    INDEX_COLUMN_RDEV_MINOR,
    INDEX_COLUMN_OFFSET,
    INDEX_COLUMN_LINK_TARGET,
    INDEX_COLUMN_XATTRS,
    INDEX_COLUMN_EXTENTS,
};

/* The errno that an (extended) result of SQLite stands for; of one that should not be,
 * EBADMSG. */
int index_form_errno(int result);

/* -EBADMSG, and says so. */
int index_form_damaged(struct fail *why);

/* Whether a directory can have an entry of that name. */
bool index_form_is_name(const char *name);

/* Whether an entry has its place in a tree, whatever is there. */
bool index_form_is_placed(const struct index_entry *entry);

/* Whether an entry's file makes sense, as far as file_read does not see to it. */
bool index_form_is_sound(const struct index_entry *entry);

/* Packs the file in `record`, as agent/file.h has it, and takes it out of there: what is
 * not sound does not pass.  The file then points into the record.  -EBADMSG: it makes no
 * sense; -ENOMEM. */
must_check int index_form_pack(struct buf *record, struct file *file,
                               const struct file_extent *extents);

/* sqlite3_bind_blob64 of bytes that stay where they are; none is an empty blob, not NULL.
 * column: as the enum above counts.  SQLite's result. */
int index_form_bind(sqlite3_stmt *stmt, int column, const void *data, size_t bytes);

/* Copies the database of an open index over that of `to`, each page checked on the way.
 * Waits for other calls for the index.  SQLite's result. */
int index_form_backup(struct index *index, sqlite3 *to);

#endif
