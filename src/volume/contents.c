/* SPDX-License-Identifier: MIT */
#include "volume/contents.h"

struct contents *contents_ref(struct contents *contents)
{
    contents->refs++;
    return contents;
}

void contents_unref(struct contents *contents)
{
    if (contents && --contents->refs == 0)
        contents->ops->free(contents);
}

void contents_hold(struct contents *contents)
{
    if (contents->ops->hold)
        contents->ops->hold(contents);
}

void contents_let_go(struct contents *contents)
{
    if (contents->ops->let_go)
        contents->ops->let_go(contents);
}

int contents_stat(struct contents *contents, const char *path, unsigned flags,
                  struct cancel *cancel, struct buf *ret_record)
{
    return contents->ops->stat(contents, path, flags, cancel, ret_record);
}

int contents_dir_open(struct contents *contents, const char *path, struct cancel *cancel,
                      struct contents_dir **ret_dir)
{
    struct contents_dir *dir;
    int r = contents->ops->dir_open(contents, path, cancel, &dir);
    if (r < 0)
        return r;
    if (!dir->contents)
        dir->contents = contents_ref(contents);
    *ret_dir = dir;
    return 0;
}

int contents_dir_next(struct contents_dir *dir, size_t max_bytes, struct cancel *cancel,
                      struct buf *ret_records)
{
    return dir->contents->ops->dir_next(dir, max_bytes, cancel, ret_records);
}

void contents_dir_close(struct contents_dir *dir)
{
    struct contents *contents = dir->contents;
    contents->ops->dir_close(dir);
    contents_unref(contents);
}

int contents_walk(struct contents *contents, struct cancel *cancel, contents_fn *fn, void *data,
                  struct fail *why)
{
    return contents->ops->walk(contents, cancel, fn, data, why);
}

int contents_open(struct contents *contents, const char *path, uint64_t dev, uint64_t id,
                  struct cancel *cancel, struct contents_file **ret_file)
{
    struct contents_file *file;
    int r = contents->ops->open(contents, path, dev, id, cancel, &file);
    if (r < 0)
        return r;
    if (!file->contents)
        file->contents = contents_ref(contents);
    *ret_file = file;
    return 0;
}

ssize_t contents_read(struct contents_file *file, void *data, size_t len, uint64_t offset,
                      struct cancel *cancel)
{
    return file->contents->ops->read(file, data, len, offset, cancel);
}

int64_t contents_seek(struct contents_file *file, uint64_t offset, int whence,
                      struct cancel *cancel)
{
    return file->contents->ops->seek(file, offset, whence, cancel);
}

void contents_close(struct contents_file *file)
{
    struct contents *contents = file->contents;
    contents->ops->close(file);
    contents_unref(contents);
}

void contents_open_many(struct contents *contents, struct contents_want *wants, size_t count,
                        struct cancel *cancel)
{
    contents->ops->open_many(contents, wants, count, cancel);
    for (size_t i = 0; i < count; i++)
        if (wants[i].result == 0 && !wants[i].file->contents)
            wants[i].file->contents = contents_ref(contents);
}

int contents_sync(struct contents *contents, struct cancel *cancel, int64_t *ret_s,
                  uint32_t *ret_ns)
{
    return contents->ops->sync(contents, cancel, ret_s, ret_ns);
}
