/* SPDX-License-Identifier: MIT */
#include "agent/file.h"

#include <endian.h>
#include <string.h>

/* The head as it is laid out.  All numbers little-endian, no padding inside. */
struct head {
    uint64_t size_bytes, blocks, dev, ino;
    int64_t mtime_s, ctime_s, atime_s, birth_s;
    uint32_t record_bytes, name_bytes, link_bytes, xattr_bytes, extent_count, is_sparse;
    uint32_t mode, nlink, uid, gid, rdev_major, rdev_minor;
    uint32_t mtime_ns, ctime_ns, atime_ns, birth_ns;
};
_Static_assert(sizeof(struct head) == 8 * 8 + 16 * 4, "the head has no padding");

#define PADDED(n) (((n) + 7) & ~(size_t)7)
/* A path of a walk: no system has longer names than this within one volume. */
#define NAME_MAX_BYTES ((size_t)1 << 20)

static void pack_head(struct head *head, const struct file *file, size_t record_bytes)
{
    const struct file_stat *st = &file->stat;
    *head = (struct head){
        .size_bytes = htole64(st->size_bytes),
        .blocks = htole64(st->blocks),
        .dev = htole64(st->dev),
        .ino = htole64(st->ino),
        .mtime_s = (int64_t)htole64((uint64_t)st->mtime.s),
        .ctime_s = (int64_t)htole64((uint64_t)st->ctime.s),
        .atime_s = (int64_t)htole64((uint64_t)st->atime.s),
        .birth_s = (int64_t)htole64((uint64_t)st->birth.s),
        .record_bytes = htole32((uint32_t)record_bytes),
        .name_bytes = htole32((uint32_t)strlen(file->name)),
        .link_bytes = htole32((uint32_t)strlen(file->link_target)),
        .xattr_bytes = htole32((uint32_t)file->xattr_bytes),
        .extent_count = htole32((uint32_t)file->extent_count),
        .is_sparse = htole32(file->is_sparse),
        .mode = htole32(st->mode),
        .nlink = htole32(st->nlink),
        .uid = htole32(st->uid),
        .gid = htole32(st->gid),
        .rdev_major = htole32(st->rdev_major),
        .rdev_minor = htole32(st->rdev_minor),
        .mtime_ns = htole32(st->mtime.ns),
        .ctime_ns = htole32(st->ctime.ns),
        .atime_ns = htole32(st->atime.ns),
        .birth_ns = htole32(st->birth.ns),
    };
}

static void unpack_stat(const struct head *head, struct file_stat *ret)
{
    *ret = (struct file_stat){
        .mode = le32toh(head->mode),
        .nlink = le32toh(head->nlink),
        .uid = le32toh(head->uid),
        .gid = le32toh(head->gid),
        .size_bytes = le64toh(head->size_bytes),
        .blocks = le64toh(head->blocks),
        .dev = le64toh(head->dev),
        .ino = le64toh(head->ino),
        .rdev_major = le32toh(head->rdev_major),
        .rdev_minor = le32toh(head->rdev_minor),
        .mtime = {(int64_t)le64toh((uint64_t)head->mtime_s), le32toh(head->mtime_ns)},
        .ctime = {(int64_t)le64toh((uint64_t)head->ctime_s), le32toh(head->ctime_ns)},
        .atime = {(int64_t)le64toh((uint64_t)head->atime_s), le32toh(head->atime_ns)},
        .birth = {(int64_t)le64toh((uint64_t)head->birth_s), le32toh(head->birth_ns)},
    };
}

static int add_extents(struct buf *out, const struct file_extent *extents, size_t count)
{
    int r = 0;
    for (size_t i = 0; i < count && r == 0; i++) {
        uint64_t packed[2] = {htole64(extents[i].offset), htole64(extents[i].bytes)};
        r = buf_add(out, packed, sizeof(packed));
    }
    return r;
}

/* splitmix64's finisher: every bit of the input tells in every bit of the output. */
static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

uint64_t file_identity(const struct file_stat *stat)
{
    return mix(mix(mix(stat->ino) ^ (uint64_t)stat->birth.s) ^ stat->birth.ns);
}

int file_write(struct buf *out, const struct file *file, const struct file_extent *extents)
{
    size_t name_bytes = strlen(file->name) + 1, link_bytes = strlen(file->link_target) + 1;
    size_t used = sizeof(struct head) + name_bytes + link_bytes + file->xattr_bytes +
                  file->extent_count * 2 * sizeof(uint64_t);
    struct head head;
    pack_head(&head, file, PADDED(used));
    size_t before = out->len;
    int r = buf_add(out, &head, sizeof(head));
    if (r == 0)
        r = buf_add(out, file->name, name_bytes);
    if (r == 0)
        r = buf_add(out, file->link_target, link_bytes);
    if (r == 0 && file->xattr_bytes)
        r = buf_add(out, file->xattrs, file->xattr_bytes);
    if (r == 0)
        r = add_extents(out, extents, file->extent_count);
    if (r == 0)
        r = buf_add_zeros(out, PADDED(used) - used);
    if (r < 0)
        out->len = before;
    return r;
}

/* A string of exactly len bytes and its NUL, within the record. */
static const char *take_string(const char **at, const char *end, size_t len)
{
    const char *string = *at;
    if (len > NAME_MAX_BYTES || (size_t)(end - string) <= len || string[len] ||
        memchr(string, '\0', len))
        return NULL;
    *at += len + 1;
    return string;
}

static const char *take_bytes(const char **at, const char *end, size_t len)
{
    const char *bytes = *at;
    if ((size_t)(end - bytes) < len)
        return NULL;
    *at += len;
    return bytes;
}

/* An attribute is the lengths of its name (with NUL) and value, then both. */
struct xattr_head {
    uint32_t name_bytes;
    uint32_t value_bytes;
};

static bool xattrs_are_sound(const char *at, size_t left)
{
    struct xattr_head head;
    while (left) {
        if (left < sizeof(head))
            return false;
        memcpy(&head, at, sizeof(head));
        size_t name = le32toh(head.name_bytes), value = le32toh(head.value_bytes);
        left -= sizeof(head);
        at += sizeof(head);
        if (name < 2 || name > left || value > left - name || strnlen(at, name) != name - 1)
            return false;
        left -= name + value;
        at += name + value;
    }
    return true;
}

/* Runs ascend, do not overlap, and lie within the file. */
static bool extents_are_sound(const struct file *file)
{
    uint64_t end = 0;
    for (size_t i = 0; i < file->extent_count; i++) {
        struct file_extent extent = file_extent_at(file, i);
        if (extent.offset < end || extent.offset > file->stat.size_bytes || !extent.bytes ||
            extent.bytes > file->stat.size_bytes - extent.offset)
            return false;
        end = extent.offset + extent.bytes;
    }
    return true;
}

static int read_record(const struct head *head, const char *at, const char *end, struct file *ret)
{
    struct file file = {.xattr_bytes = le32toh(head->xattr_bytes),
                        .extent_count = le32toh(head->extent_count),
                        .is_sparse = le32toh(head->is_sparse)};
    unpack_stat(head, &file.stat);
    if (file.xattr_bytes > FILE_MAX_XATTR_BYTES || file.extent_count > FILE_MAX_EXTENTS)
        return -EBADMSG;
    file.name = take_string(&at, end, le32toh(head->name_bytes));
    file.link_target = file.name ? take_string(&at, end, le32toh(head->link_bytes)) : NULL;
    file.xattrs = file.link_target ? take_bytes(&at, end, file.xattr_bytes) : NULL;
    file.extents = file.xattrs ? take_bytes(&at, end, file.extent_count * 2 * 8) : NULL;
    if (!file.extents || !xattrs_are_sound(file.xattrs, file.xattr_bytes) ||
        !extents_are_sound(&file) || file.stat.mtime.ns > 999999999 ||
        file.stat.size_bytes > INT64_MAX)
        return -EBADMSG;
    *ret = file;
    return 1;
}

int file_read(const char *data, size_t len, size_t *position, struct file *ret_file)
{
    struct head head;
    if (*position == len)
        return 0;
    if (*position > len || len - *position < sizeof(head))
        return -EBADMSG;
    memcpy(&head, data + *position, sizeof(head));
    size_t record_bytes = le32toh(head.record_bytes);
    if (record_bytes < sizeof(head) || record_bytes > len - *position || record_bytes % 8)
        return -EBADMSG;
    const char *at = data + *position + sizeof(head);
    int r = read_record(&head, at, data + *position + record_bytes, ret_file);
    if (r > 0)
        *position += record_bytes;
    return r;
}

int file_xattr_add(struct buf *packed, const char *name, const void *value, size_t value_bytes)
{
    size_t name_bytes = strlen(name) + 1, before = packed->len;
    struct xattr_head head = {htole32((uint32_t)name_bytes), htole32((uint32_t)value_bytes)};
    int r = buf_add(packed, &head, sizeof(head));
    if (r == 0)
        r = buf_add(packed, name, name_bytes);
    if (r == 0)
        r = buf_add(packed, value, value_bytes);
    if (r < 0)
        packed->len = before;
    return r;
}

int file_xattr_next(const struct file *file, size_t *position, const char **ret_name,
                    const void **ret_value, size_t *ret_value_bytes)
{
    if (*position >= file->xattr_bytes)
        return 0;
    struct xattr_head head;
    const char *at = file->xattrs + *position;
    memcpy(&head, at, sizeof(head));
    *ret_name = at + sizeof(head);
    *ret_value = *ret_name + le32toh(head.name_bytes);
    *ret_value_bytes = le32toh(head.value_bytes);
    *position += sizeof(head) + le32toh(head.name_bytes) + *ret_value_bytes;
    return 1;
}

struct file_extent file_extent_at(const struct file *file, size_t index)
{
    uint64_t packed[2];
    memcpy(packed, file->extents + index * sizeof(packed), sizeof(packed));
    return (struct file_extent){.offset = le64toh(packed[0]), .bytes = le64toh(packed[1])};
}
