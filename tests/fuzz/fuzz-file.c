/* SPDX-License-Identifier: MIT */
/* agent/file.h, file_read: all of a record lies within it, and written again and
 * read it says the same. */
#include "fuzz.h"

#include "agent/file.h"

static volatile uint64_t sink;

/* The sanitizer watches what is touched. */
static uint64_t sum_of(const void *data, size_t bytes)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < bytes; i++)
        sum = sum * 31 + ((const uint8_t *)data)[i];
    return sum;
}

static void read_xattrs(const struct file *file)
{
    size_t position = 0, bytes;
    const char *name;
    const void *value;
    while (file_xattr_next(file, &position, &name, &value, &bytes)) {
        require(name[0] != '\0' && position <= file->xattr_bytes);
        sink += sum_of(name, strlen(name) + 1) + sum_of(value, bytes);
    }
    require(position == file->xattr_bytes);
}

static struct file_extent *read_extents(const struct file *file)
{
    struct file_extent *extents = calloc(file->extent_count + 1, sizeof(*extents));
    require(extents != NULL);
    uint64_t end = 0;
    for (size_t i = 0; i < file->extent_count; i++) {
        extents[i] = file_extent_at(file, i);
        require(extents[i].offset >= end && extents[i].bytes > 0);
        end = extents[i].offset + extents[i].bytes;
        require(end > extents[i].offset && end <= file->stat.size_bytes);
    }
    return extents;
}

static void write_again(const struct file *file, const struct file_extent *extents)
{
    struct buf out cleanup_buf;
    buf_init(&out, (size_t)64 << 20);
    require(file_write(&out, file, extents) == 0);
    size_t position = 0;
    struct file same;
    require(file_read(out.data, out.len, &position, &same) == 1 && position == out.len);
    require(strcmp(same.name, file->name) == 0);
    require(strcmp(same.link_target, file->link_target) == 0);
    require(same.is_sparse == file->is_sparse && same.extent_count == file->extent_count);
    require(memcmp(same.extents, file->extents, same.extent_count * 16) == 0);
    require(same.xattr_bytes == file->xattr_bytes &&
            memcmp(same.xattrs, file->xattrs, same.xattr_bytes) == 0);
    require(file_identity(&same.stat) == file_identity(&file->stat));
    struct buf again cleanup_buf;
    buf_init(&again, (size_t)64 << 20);
    require(file_write(&again, &same, extents) == 0 && again.len == out.len);
    require(memcmp(again.data, out.data, out.len) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t position = 0, before = 0;
    struct file file;
    int r;
    while ((r = file_read((const char *)data, size, &position, &file)) > 0) {
        require(position > before && position <= size);
        before = position;
        read_xattrs(&file);
        cleanup_free struct file_extent *extents = read_extents(&file);
        write_again(&file, extents);
    }
    require(position == before && (r == -EBADMSG || (r == 0 && position == size)));
    return 0;
}
