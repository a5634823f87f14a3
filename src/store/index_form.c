/* SPDX-License-Identifier: MIT */
#include "store/index_form.h"

#include <string.h>

const char *const index_form_schema[INDEX_FORM_TABLES] = {
    "CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID",
    "CREATE TABLE entry(id INTEGER PRIMARY KEY, parent INTEGER, target INTEGER, name BLOB,"
    " mode INTEGER, nlink INTEGER, uid INTEGER, gid INTEGER, size INTEGER,"
    " mtime_s INTEGER, mtime_ns INTEGER, rdev_major INTEGER, rdev_minor INTEGER,"
    " offset INTEGER, link_target BLOB, xattrs BLOB, extents BLOB)",
    "CREATE UNIQUE INDEX entry_name ON entry(parent, name)",
    "CREATE TABLE frame(number INTEGER PRIMARY KEY, key BLOB)",
};

int index_form_errno(int result)
{
    static const struct {
        int result;
        int error;
    } table[] = {
        {SQLITE_NOMEM, ENOMEM},      {SQLITE_FULL, ENOSPC},     {SQLITE_IOERR, EIO},
        {SQLITE_CONSTRAINT, EINVAL}, {SQLITE_TOOBIG, E2BIG},    {SQLITE_PERM, EACCES},
        {SQLITE_READONLY, EROFS},    {SQLITE_CORRUPT, EBADMSG}, {SQLITE_NOTADB, EBADMSG},
    };
    if (result == SQLITE_IOERR_CORRUPTFS)
        return EBADMSG;
    if (result == SQLITE_IOERR_NOMEM)
        return ENOMEM;
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        if ((result & 0xff) == table[i].result)
            return table[i].error;
    return EBADMSG;
}

bool index_form_is_name(const char *name)
{
    size_t bytes = strlen(name);
    return bytes > 0 && bytes <= NAME_MAX && !strchr(name, '/') && strcmp(name, ".") != 0 &&
           strcmp(name, "..") != 0;
}

static bool has_known_type(uint32_t mode)
{
    uint32_t type = mode & S_IFMT;
    return (mode & ~(uint32_t)(S_IFMT | 07777)) == 0 &&
           (type == S_IFREG || type == S_IFDIR || type == S_IFLNK || type == S_IFCHR ||
            type == S_IFBLK || type == S_IFIFO);
}

bool index_form_is_placed(const struct index_entry *entry)
{
    if (entry->id == 0)
        return entry->parent == 0 && entry->target == 0 && entry->file.name[0] == '\0';
    return entry->id <= INT64_MAX && entry->parent < entry->id && entry->target <= entry->id &&
           index_form_is_name(entry->file.name);
}

bool index_form_is_sound(const struct index_entry *entry)
{
    const struct file *file = &entry->file;
    uint32_t type = file->stat.mode & S_IFMT;
    size_t link_bytes = strlen(file->link_target);
    return has_known_type(file->stat.mode) && (entry->id > 0 || type == S_IFDIR) &&
           link_bytes <= INDEX_FORM_LINK_MAX_BYTES && (type == S_IFLNK) == (link_bytes > 0) &&
           (type == S_IFREG || (!file->is_sparse && file->extent_count == 0)) &&
           file->stat.size_bytes <= INT64_MAX && file->stat.mtime.ns <= 999999999 &&
           entry->offset <= INT64_MAX;
}

int index_form_pack(struct buf *record, struct file *file, const struct file_extent *extents)
{
    size_t position = 0;
    buf_clear(record);
    int r = file_write(record, file, extents);
    if (r == 0)
        r = file_read(record->data, record->len, &position, file);
    if (r == 0 || r == -EMSGSIZE)
        return -EBADMSG;
    return r < 0 ? r : 0;
}

int index_form_damaged(struct fail *why)
{
    return fail_set(why, EBADMSG, "the index is damaged");
}

int index_form_bind(sqlite3_stmt *stmt, int column, const void *data, size_t bytes)
{
    return sqlite3_bind_blob64(stmt, column + 1, bytes ? data : "", bytes, SQLITE_STATIC);
}
