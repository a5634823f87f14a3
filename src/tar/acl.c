/* SPDX-License-Identifier: MIT */
#include "tar/acl.h"

#include <archive.h>
#include <endian.h>
#include <linux/posix_acl_xattr.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>

/* The kernel refuses attributes over 64 KiB, and so longer lists. */
#define ACL_ENTRIES_MAX 8000

/* Tags, permissions and ACL_UNDEFINED_ID of linux/posix_acl.h, which is not for user space. */
enum {
    TAG_USER_OBJ = 0x01,
    TAG_USER = 0x02,
    TAG_GROUP_OBJ = 0x04,
    TAG_GROUP = 0x08,
    TAG_MASK = 0x10,
    TAG_OTHER = 0x20,
};
#define NO_ID UINT32_MAX

struct acl {
    struct ace {
        uint16_t tag;
        uint16_t perm;
        uint32_t id;
    } * entries;
    size_t count;
    size_t room;
    unsigned tags; /* all there are */
};

static void acl_done(struct acl *acl)
{
    free(acl->entries);
}

static bool is_named(unsigned tag)
{
    return tag == TAG_USER || tag == TAG_GROUP;
}

static uint16_t kernel_tag(int tag)
{
    switch (tag) {
    case ARCHIVE_ENTRY_ACL_USER_OBJ:
        return TAG_USER_OBJ;
    case ARCHIVE_ENTRY_ACL_USER:
        return TAG_USER;
    case ARCHIVE_ENTRY_ACL_GROUP_OBJ:
        return TAG_GROUP_OBJ;
    case ARCHIVE_ENTRY_ACL_GROUP:
        return TAG_GROUP;
    case ARCHIVE_ENTRY_ACL_MASK:
        return TAG_MASK;
    case ARCHIVE_ENTRY_ACL_OTHER:
        return TAG_OTHER;
    default:
        return 0;
    }
}

/* A tag from elsewhere; 0: no such tag. */
static uint16_t known_tag(unsigned tag)
{
    unsigned all = TAG_USER_OBJ | TAG_USER | TAG_GROUP_OBJ | TAG_GROUP | TAG_MASK | TAG_OTHER;
    bool is_one = tag && (tag & (tag - 1)) == 0;
    return is_one && (tag & all) ? (uint16_t)tag : 0;
}

static int acl_add(struct acl *acl, struct ace ace, struct fail *why)
{
    bool repeated = (acl->tags & ace.tag) && !is_named(ace.tag);
    if (!ace.tag || repeated || acl->count == ACL_ENTRIES_MAX)
        return fail_set(why, EILSEQ, "no valid ACL");
    if (acl->count == acl->room) {
        size_t room = acl->room ? acl->room * 2 : 8;
        struct ace *more = reallocarray(acl->entries, room, sizeof(*more));
        if (!more)
            return -ENOMEM;
        acl->entries = more;
        acl->room = room;
    }
    acl->entries[acl->count++] = ace;
    acl->tags |= ace.tag;
    return 0;
}

static int compare(const void *left, const void *right)
{
    const struct ace *a = left;
    const struct ace *b = right;
    if (a->tag != b->tag)
        return a->tag < b->tag ? -1 : 1;
    return (a->id > b->id) - (a->id < b->id);
}

/* Collects the entries of one type from what libarchive read as text. */
static int acl_fill(struct acl *acl, struct archive_entry *from, int want, struct fail *why)
{
    int type, perm, tag, id;
    const char *name;
    (void)archive_entry_acl_reset(from, want);
    while (archive_entry_acl_next(from, want, &type, &perm, &tag, &id, &name) == ARCHIVE_OK) {
        struct ace ace = {.tag = kernel_tag(tag), .perm = (uint16_t)(perm & 7), .id = NO_ID};
        if (is_named(ace.tag) && id < 0)
            return fail_set(why, EILSEQ, "its ACL has %s without a number",
                            name && name[0] ? name : "a user or group");
        if (is_named(ace.tag))
            ace.id = (uint32_t)id;
        int r = acl_add(acl, ace, why);
        if (r < 0)
            return r;
    }
    return 0;
}

/* Collects the entries from an attribute's value. */
static int acl_parse(struct acl *acl, const struct tar_xattr *xattr, struct fail *why)
{
    struct posix_acl_xattr_header header;
    struct posix_acl_xattr_entry entry;
    const char *at = xattr->value;
    size_t left = xattr->value_bytes;
    if (left < sizeof(header) || (left - sizeof(header)) % sizeof(entry) != 0)
        return fail_set(why, EILSEQ, "no valid ACL");
    memcpy(&header, at, sizeof(header));
    if (le32toh(header.a_version) != POSIX_ACL_XATTR_VERSION)
        return fail_set(why, EILSEQ, "no valid ACL");
    for (at += sizeof(header), left -= sizeof(header); left > 0; left -= sizeof(entry)) {
        memcpy(&entry, at, sizeof(entry));
        at += sizeof(entry);
        struct ace ace = {
            .tag = known_tag(le16toh(entry.e_tag)), .perm = le16toh(entry.e_perm) & 7, .id = NO_ID};
        if (is_named(ace.tag))
            ace.id = le32toh(entry.e_id);
        /* As the kernel tells of whom a user namespace has no number for, and takes from nobody. */
        if (is_named(ace.tag) && ace.id == NO_ID)
            continue;
        int r = acl_add(acl, ace, why);
        if (r < 0)
            return r;
    }
    return 0;
}

/* Brings the entries into the kernel's order; all that it wants must be there. */
static int acl_complete(struct acl *acl, struct fail *why)
{
    unsigned needed = TAG_USER_OBJ | TAG_GROUP_OBJ | TAG_OTHER;
    if (acl->tags & (TAG_USER | TAG_GROUP))
        needed |= TAG_MASK;
    if ((acl->tags & needed) != needed)
        return fail_set(why, EILSEQ, "no valid ACL");
    qsort(acl->entries, acl->count, sizeof(*acl->entries), compare);
    return 0;
}

static int acl_store(const struct acl *acl, struct tar_entry *entry, const char *name)
{
    struct buf bytes cleanup_buf;
    buf_init(&bytes, sizeof(struct posix_acl_xattr_header) +
                         ACL_ENTRIES_MAX * sizeof(struct posix_acl_xattr_entry));
    struct posix_acl_xattr_header header = {.a_version = htole32(POSIX_ACL_XATTR_VERSION)};
    int r = buf_add(&bytes, &header, sizeof(header));
    for (size_t i = 0; r == 0 && i < acl->count; i++) {
        struct posix_acl_xattr_entry ace = {
            .e_tag = htole16(acl->entries[i].tag),
            .e_perm = htole16(acl->entries[i].perm),
            .e_id = htole32(acl->entries[i].id),
        };
        r = buf_add(&bytes, &ace, sizeof(ace));
    }
    return r < 0 ? r : tar_entry_add_xattr(entry, name, bytes.data, bytes.len);
}

static mode_t mask_of(const struct acl *acl, mode_t fallback)
{
    for (size_t i = 0; i < acl->count; i++)
        if (acl->entries[i].tag == TAG_MASK)
            return acl->entries[i].perm;
    return fallback;
}

/* The attribute goes before the text, which libarchive (3.6) reads no ids over 2^31 of.  One
 * without entries says that there is no ACL. */
static int convert_one(struct archive_entry *from, struct tar_entry *entry, int type,
                       struct fail *why)
{
    struct acl acl cleanup(acl_done) = {0};
    bool is_default = type == ARCHIVE_ENTRY_ACL_TYPE_DEFAULT;
    const char *name = is_default ? TAR_ACL_DEFAULT : TAR_ACL_ACCESS;
    const struct tar_xattr *given = tar_entry_find_xattr(entry, name);
    if (!given && !(archive_entry_acl_types(from) & type))
        return 0;
    int r = given ? acl_parse(&acl, given, why) : acl_fill(&acl, from, type, why);
    if (r < 0 || (given && given->value_bytes == sizeof(struct posix_acl_xattr_header)))
        return r;
    r = acl_complete(&acl, why);
    if (r < 0)
        return r;
    if (is_default && !S_ISDIR(entry->mode)) /* the kernel refuses it */
        return fail_set(why, EILSEQ, "a default ACL, but no directory");
    if (!is_default)
        entry->mode = (entry->mode & ~(mode_t)S_IRWXG) | mask_of(&acl, entry->mode >> 3 & 7) << 3;
    return acl_store(&acl, entry, name);
}

int tar_acl_convert(struct archive_entry *from, struct tar_entry *entry, struct fail *why)
{
    int r = convert_one(from, entry, ARCHIVE_ENTRY_ACL_TYPE_ACCESS, why);
    return r < 0 ? r : convert_one(from, entry, ARCHIVE_ENTRY_ACL_TYPE_DEFAULT, why);
}

static const char *tag_text(unsigned tag)
{
    switch (tag) {
    case TAG_USER_OBJ:
    case TAG_USER:
        return "user";
    case TAG_GROUP_OBJ:
    case TAG_GROUP:
        return "group";
    case TAG_MASK:
        return "mask";
    case TAG_OTHER:
        return "other";
    default:
        return NULL;
    }
}

static int add_ace_text(struct buf *out, const struct posix_acl_xattr_entry *ace)
{
    unsigned tag = le16toh(ace->e_tag);
    unsigned perm = le16toh(ace->e_perm);
    const char *name = tag_text(tag);
    if (!name || perm > 7)
        return -EINVAL;
    int r = buf_add_string(out, name);
    if (r == 0)
        r = is_named(tag) ? buf_printf(out, ":%u:", (unsigned)le32toh(ace->e_id))
                          : buf_add_string(out, "::");
    char text[] = {perm & 4 ? 'r' : '-', perm & 2 ? 'w' : '-', perm & 1 ? 'x' : '-'};
    return r < 0 ? r : buf_add(out, text, sizeof(text));
}

int tar_acl_add_text(struct buf *out, const void *value, size_t value_bytes)
{
    struct posix_acl_xattr_header header;
    struct posix_acl_xattr_entry ace;
    const char *at = value;
    size_t left = value_bytes;
    if (left <= sizeof(header) || (left - sizeof(header)) % sizeof(ace) != 0)
        return -EINVAL;
    memcpy(&header, at, sizeof(header));
    if (le32toh(header.a_version) != POSIX_ACL_XATTR_VERSION)
        return -EINVAL;
    size_t before = out->len;
    int r = 0;
    for (at += sizeof(header), left -= sizeof(header); r == 0 && left > 0; left -= sizeof(ace)) {
        memcpy(&ace, at, sizeof(ace));
        at += sizeof(ace);
        r = out->len > before ? buf_add(out, ",", 1) : 0;
        if (r == 0)
            r = add_ace_text(out, &ace);
    }
    if (r < 0)
        out->len = before;
    return r;
}
