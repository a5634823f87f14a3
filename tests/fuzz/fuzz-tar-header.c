/* SPDX-License-Identifier: MIT */
/*
 * tar/header.h: what is written of an entry is read again as it was. The entry is made of
 * the input: a head of numbers, then the name, the link's target, and an attribute.
 */
#include "fuzz.h"

#include "tar/header.h"
#include "tar/reader.h"
#include "tar/scan.h"

#include <sys/stat.h>

#define DATA_MAX_BYTES 5000

struct head {
    int64_t mtime_s;
    uint64_t uid, gid;
    uint32_t mtime_ns, mode, dev_major, dev_minor;
    uint16_t size_bytes, name_bytes, link_bytes, xattr_bytes;
    uint8_t is_hard_link, unused[7];
};

/* The next bytes as a string. */
static char *take_string(const uint8_t **at, size_t *left, size_t bytes)
{
    size_t len = bytes < *left ? bytes : *left;
    char *string = strndup((const char *)*at, len);
    require(string != NULL);
    *at += len;
    *left -= len;
    return string;
}

/* As tar/entry.h has them. */
static void clean_name(char *name)
{
    tar_entry_clean_name(name);
    if (name[0] == '/')
        memmove(name, name + 1, strlen(name));
}

static void make_entry(const struct head *head, const uint8_t *at, size_t left,
                       struct tar_entry *entry)
{
    static const mode_t types[] = {S_IFREG, S_IFDIR, S_IFLNK, S_IFCHR, S_IFBLK, S_IFIFO, S_IFSOCK};
    *entry = (struct tar_entry){
        .mode = types[head->mode % 7] | ((head->mode >> 8) & 07777),
        .uid = head->uid & INT64_MAX,
        .gid = head->gid & INT64_MAX,
        .mtime_s = head->mtime_s / 2, /* libarchive lacks the very least */
        .mtime_ns = head->mtime_ns % 1000000000,
        .is_hard_link = head->is_hard_link & 1,
        .dev_major = head->dev_major & 0xfff,
        .dev_minor = head->dev_minor & 0xfffff,
    };
    if (entry->mtime_s == -1) /* nor, of "-0.5", the sign */
        entry->mtime_ns = 0;
    entry->name = take_string(&at, &left, head->name_bytes);
    clean_name(entry->name);
    entry->link_target = take_string(&at, &left, head->link_bytes);
    if (entry->is_hard_link) {
        entry->mode = S_IFREG | (entry->mode & 07777);
        clean_name(entry->link_target);
    }
    if (S_ISREG(entry->mode) && !entry->is_hard_link)
        entry->size_bytes = head->size_bytes % DATA_MAX_BYTES;
    size_t value_bytes = head->xattr_bytes < left ? head->xattr_bytes : left;
    if (value_bytes)
        require(tar_entry_add_xattr(entry, "user.k=%y", at, value_bytes) == 0);
}

static bool is_link(const struct tar_entry *entry)
{
    return S_ISLNK(entry->mode) || entry->is_hard_link;
}

static void check_same(const struct tar_entry *wrote, const struct tar_entry *read)
{
    require(strcmp(read->name, wrote->name) == 0 && read->mode == wrote->mode);
    require(read->uid == wrote->uid && read->gid == wrote->gid);
    require(read->mtime_s == wrote->mtime_s && read->mtime_ns == wrote->mtime_ns);
    require(read->size_bytes == wrote->size_bytes);
    require(!read->is_hard_link == !wrote->is_hard_link);
    require(!is_link(wrote) || strcmp(read->link_target, wrote->link_target) == 0);
    if (S_ISCHR(wrote->mode) || S_ISBLK(wrote->mode))
        require(read->dev_major == wrote->dev_major && read->dev_minor == wrote->dev_minor);
    if (wrote->is_hard_link)
        return;
    require(read->xattr_count == wrote->xattr_count);
    for (size_t i = 0; i < wrote->xattr_count; i++)
        require(strcmp(read->xattrs[i].name, wrote->xattrs[i].name) == 0 &&
                read->xattrs[i].value_bytes == wrote->xattrs[i].value_bytes &&
                memcmp(read->xattrs[i].value, wrote->xattrs[i].value,
                       wrote->xattrs[i].value_bytes) == 0);
}

static void read_again(const struct buf *archive, const struct tar_entry *wrote)
{
    struct fail why = FAIL_INIT;
    cleanup_close int fd = file_of((const uint8_t *)archive->data, archive->len);
    struct tar_reader *reader cleanup_tar_reader = NULL;
    struct tar_entry read cleanup_tar_entry = {0}, none = {0};
    require(tar_reader_open(fd, &reader, &why) == 0);
    require(tar_reader_next(reader, &read, &why) == 1);
    check_same(wrote, &read);
    require(tar_reader_next(reader, &none, &why) == 0);
    struct tar_scan *scan cleanup_tar_scan = tar_scan_new(NULL, NULL);
    require(scan != NULL && tar_scan_push(scan, archive->data, archive->len, &why) == 0);
    require(tar_scan_finish(scan, &why) == 0 && tar_scan_count(scan) == 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct head head;
    if (size < sizeof(head))
        return 0;
    memcpy(&head, data, sizeof(head));
    struct tar_entry entry cleanup_tar_entry = {0};
    make_entry(&head, data + sizeof(head), size - sizeof(head), &entry);
    if (is_link(&entry) && !entry.link_target[0]) /* which no file system has */
        return 0;
    struct buf archive cleanup_buf;
    buf_init(&archive, (size_t)64 << 20);
    int r = tar_header_write(&archive, "", &entry);
    require(r == 0 || r == -EINVAL);
    require(r < 0 || (archive.len > 0 && archive.len % TAR_BLOCK_BYTES == 0));
    if (r < 0)
        return 0;
    size_t zeros = entry.size_bytes + tar_padding_bytes(entry.size_bytes) + TAR_END_BYTES;
    require(buf_add_zeros(&archive, zeros) == 0);
    read_again(&archive, &entry);
    return 0;
}
