/* SPDX-License-Identifier: MIT */
#include "tar/header.h"

#include "tar/acl.h"

#include <assert.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* POSIX.1-2017 pax, "ustar Interchange Format". */
struct ustar {
    char name[100];
    char mode[8];
    char uid[8];
    char gid[8];
    char size[12];
    char mtime[12];
    char checksum[8];
    char type;
    char link_name[100];
    char magic[6];
    char version[2];
    char user[32];
    char group[32];
    char dev_major[8];
    char dev_minor[8];
    char prefix[155];
    char unused[12];
};
_Static_assert(sizeof(struct ustar) == TAR_BLOCK_BYTES, "a header is one block");

unsigned tar_padding_bytes(uint64_t size_bytes)
{
    return (unsigned)(-size_bytes % TAR_BLOCK_BYTES);
}

/* Whether the value went in: field_bytes - 1 octal digits and a NUL. */
static bool put_octal(char *field, size_t field_bytes, uint64_t value)
{
    bool fits = value < UINT64_C(1) << 3 * (field_bytes - 1);
    field[field_bytes - 1] = '\0';
    for (size_t i = field_bytes - 1; i-- > 0; value >>= 3)
        field[i] = (char)(fits ? '0' + (value & 7) : '0');
    return fits;
}

/* Octal, or where that does not fit GNU's base-256: two's complement below a marker bit. */
static void put_number(char *field, size_t field_bytes, int64_t value)
{
    if (value >= 0 && put_octal(field, field_bytes, (uint64_t)value))
        return;
    for (size_t i = field_bytes; i-- > 0; value >>= 8)
        field[i] = (char)(value & 0xff);
    field[0] = (char)(field[0] | 0x80);
}

static void put_checksum(struct ustar *ustar)
{
    memset(ustar->checksum, ' ', sizeof(ustar->checksum));
    const unsigned char *bytes = (const unsigned char *)ustar;
    unsigned sum = 0;
    for (size_t i = 0; i < sizeof(*ustar); i++)
        sum += bytes[i];
    (void)put_octal(ustar->checksum, sizeof(ustar->checksum) - 1, sum);
}

static void put_magic(struct ustar *ustar)
{
    memcpy(ustar->magic, "ustar", sizeof(ustar->magic));
    memcpy(ustar->version, "00", sizeof(ustar->version));
}

/* Where a name too long for one field may be cut; NULL: nowhere. */
static const char *find_split(const char *name, size_t len)
{
    const struct ustar *ustar = NULL;
    size_t end = len < sizeof(ustar->prefix) + 1 ? len : sizeof(ustar->prefix) + 1;
    const char *slash = memrchr(name, '/', end);
    if (slash && slash + 1 == name + len)
        slash = memrchr(name, '/', (size_t)(slash - name));
    if (!slash || slash == name || len - (size_t)(slash + 1 - name) > sizeof(ustar->name))
        return NULL;
    return slash;
}

/* Whether the name went in whole; else its beginning is there, for old readers. */
static bool put_name(struct ustar *ustar, const char *name)
{
    size_t len = strlen(name);
    if (len <= sizeof(ustar->name)) {
        memcpy(ustar->name, name, len);
        return true;
    }
    const char *slash = find_split(name, len);
    if (!slash) {
        memcpy(ustar->name, name, sizeof(ustar->name));
        return false;
    }
    memcpy(ustar->prefix, name, (size_t)(slash - name));
    memcpy(ustar->name, slash + 1, len - (size_t)(slash + 1 - name));
    return true;
}

static bool put_link_name(struct ustar *ustar, const char *target)
{
    size_t len = strnlen(target, sizeof(ustar->link_name) + 1);
    bool fits = len <= sizeof(ustar->link_name);
    memcpy(ustar->link_name, target, fits ? len : sizeof(ustar->link_name));
    return fits;
}

static size_t count_digits(size_t number)
{
    size_t digits = 1;
    while (number /= 10)
        digits++;
    return digits;
}

/* "LEN KEY=VALUE\n", where LEN counts itself. */
static int add_record(struct buf *pax, const char *key, const void *value, size_t value_bytes)
{
    size_t rest = strlen(" =\n") + strlen(key);
    if (value_bytes > pax->max_bytes || rest > pax->max_bytes)
        return -EMSGSIZE;
    rest += value_bytes;
    size_t len = rest + count_digits(rest);
    len = rest + count_digits(len);
    char head[24];
    int r = buf_add(pax, head, (size_t)snprintf(head, sizeof(head), "%zu ", len));
    if (r == 0)
        r = buf_add_string(pax, key);
    if (r == 0)
        r = buf_add(pax, "=", 1);
    if (r == 0)
        r = buf_add(pax, value, value_bytes);
    return r < 0 ? r : buf_add(pax, "\n", 1);
}

static int add_text(struct buf *pax, const char *key, const char *text)
{
    return add_record(pax, key, text, strlen(text));
}

static int add_number(struct buf *pax, const char *key, uint64_t value)
{
    char text[24];
    int len = snprintf(text, sizeof(text), "%" PRIu64, value);
    return add_record(pax, key, text, (size_t)len);
}

/* The seconds are floored, the text is not: -1.25 is -2 s and 750000000 ns. */
static int add_time(struct buf *pax, const char *key, int64_t s, uint32_t ns)
{
    char text[40];
    bool negative = s < 0;
    if (negative && ns > 0) {
        s++;
        ns = 1000000000 - ns;
    }
    uint64_t whole = negative ? -(uint64_t)s : (uint64_t)s;
    int len = snprintf(text, sizeof(text), "%s%" PRIu64, negative ? "-" : "", whole);
    if (ns > 0)
        len += snprintf(text + len, sizeof(text) - (size_t)len, ".%09" PRIu32, ns);
    return add_record(pax, key, text, (size_t)len);
}

/* RFC 3629, as strict readers have it: no overlong forms, no surrogates. */
static size_t utf8_sequence_bytes(const unsigned char *s)
{
    static const struct {
        unsigned char first_min, first_max, second_min, second_max, bytes;
    } forms[] = {
        {0x01, 0x7f, 0x00, 0x00, 1}, {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
        {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
        {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
    };
    for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
        if (s[0] < forms[i].first_min || s[0] > forms[i].first_max)
            continue;
        if (forms[i].bytes > 1 && (s[1] < forms[i].second_min || s[1] > forms[i].second_max))
            return 0;
        for (size_t k = 2; k < forms[i].bytes; k++)
            if ((s[k] & 0xc0) != 0x80)
                return 0;
        return forms[i].bytes;
    }
    return 0;
}

static bool is_utf8(const char *text)
{
    size_t len = 1;
    for (const unsigned char *s = (const unsigned char *)text; *s && len; s += len)
        len = utf8_sequence_bytes(s);
    return len != 0;
}

/*
 * GNU tar's escapes: '=' ends a record's key, so in an attribute's name it is
 * "%3D", and '%' is "%25".  '%' is escaped only where GNU tar would otherwise
 * take it for an escape, because no other reader undoes it.
 */
static int add_xattr(struct buf *pax, const struct tar_xattr *xattr)
{
    struct buf key cleanup_buf;
    buf_init(&key, pax->max_bytes);
    int r = buf_add_string(&key, "SCHILY.xattr.");
    for (const char *c = xattr->name; r == 0 && *c; c++) {
        bool escape = strncmp(c, "%3D", 3) == 0 || strncmp(c, "%25", 3) == 0;
        r = *c == '=' ? buf_add_string(&key, "%3D")
            : escape  ? buf_add_string(&key, "%25")
                      : buf_add(&key, c, 1);
    }
    return r < 0 ? r : add_record(pax, buf_string(&key), xattr->value, xattr->value_bytes);
}

/* What is no ACL that we understand is in its SCHILY.xattr record only. */
static int add_acl(struct buf *pax, const struct tar_xattr *xattr)
{
    bool is_access = strcmp(xattr->name, TAR_ACL_ACCESS) == 0;
    if (!is_access && strcmp(xattr->name, TAR_ACL_DEFAULT) != 0)
        return 0;
    struct buf text cleanup_buf;
    buf_init(&text, pax->max_bytes);
    int r = tar_acl_add_text(&text, xattr->value, xattr->value_bytes);
    if (r < 0)
        return r == -EINVAL ? 0 : r;
    return add_text(pax, is_access ? "SCHILY.acl.access" : "SCHILY.acl.default", text.data);
}

/* Adds the records for names that did not go into the header. */
static int add_names(struct buf *pax, const char *name, const char *link_name)
{
    int r = 0;
    /* Without this pax values are UTF-8, and readers may "repair" them. */
    if ((name && !is_utf8(name)) || (link_name && !is_utf8(link_name)))
        r = add_text(pax, "hdrcharset", "BINARY");
    if (r == 0 && name)
        r = add_text(pax, "path", name);
    if (r == 0 && link_name)
        r = add_text(pax, "linkpath", link_name);
    return r;
}

/*
 * GNU tar manual, "PAX Format, Versions 1.0": the member's own name is one that
 * tells what it is to a reader that does not know the format; so it may be cut.
 */
static int put_sparse_name(struct ustar *ustar, struct buf *pax, const char *name)
{
    const char *slash = strrchr(name, '/');
    int directory_bytes = slash ? (int)(slash + 1 - name) : 0;
    struct buf own cleanup_buf;
    buf_init(&own, pax->max_bytes);
    int r =
        buf_printf(&own, "%.*sGNUSparseFile.0/%s", directory_bytes, name, name + directory_bytes);
    if (r < 0)
        return r;
    (void)put_name(ustar, own.data);
    r = is_utf8(name) ? 0 : add_text(pax, "hdrcharset", "BINARY");
    if (r == 0)
        r = add_text(pax, "GNU.sparse.major", "1");
    if (r == 0)
        r = add_text(pax, "GNU.sparse.minor", "0");
    return r < 0 ? r : add_text(pax, "GNU.sparse.name", name);
}

/* What a member is called, and what it links to. */
struct names {
    struct buf name;
    struct buf link_name;
};

static void names_done(struct names *names)
{
    buf_done(&names->name);
    buf_done(&names->link_name);
}

static int names_fill(struct names *names, const char *prefix, const struct tar_entry *entry)
{
    bool is_root = entry->name[0] == '\0';
    int r = buf_add_string(&names->name, prefix);
    if (r == 0)
        r = buf_add_string(&names->name, is_root && !prefix[0] ? "./" : entry->name);
    if (r == 0 && S_ISDIR(entry->mode) && !is_root)
        r = buf_add_string(&names->name, "/");
    if (r == 0 && entry->is_hard_link)
        r = buf_add_string(&names->link_name, prefix);
    if (r == 0 && (entry->is_hard_link || S_ISLNK(entry->mode)))
        r = buf_add_string(&names->link_name, entry->link_target);
    return r;
}

static char type_of(const struct tar_entry *entry)
{
    if (entry->is_hard_link)
        return '1';
    switch (entry->mode & S_IFMT) {
    case S_IFREG:
        return '0';
    case S_IFLNK:
        return '2';
    case S_IFCHR:
        return '3';
    case S_IFBLK:
        return '4';
    case S_IFDIR:
        return '5';
    case S_IFIFO:
        return '6';
    default:
        return '\0';
    }
}

/* How a member is written, beside what its entry says. */
struct form {
    bool no_xattrs;
    bool acl_text;
    bool is_sparse;
    uint64_t stored_bytes; /* of a sparse file */
};

/*
 * A sparse file has two sizes.  The one in the archive goes into the header
 * whatever it is: a record "size" would make python's tarfile mix them up.
 */
static int put_size(struct ustar *ustar, struct buf *pax, const struct tar_entry *entry,
                    const struct form *form)
{
    uint64_t size = S_ISREG(entry->mode) && !entry->is_hard_link ? entry->size_bytes : 0;
    if (form->is_sparse) {
        put_number(ustar->size, sizeof(ustar->size), (int64_t)form->stored_bytes);
        return add_number(pax, "GNU.sparse.realsize", size);
    }
    return put_octal(ustar->size, sizeof(ustar->size), size) ? 0 : add_number(pax, "size", size);
}

static int put_numbers(struct ustar *ustar, struct buf *pax, const struct tar_entry *entry,
                       const struct form *form)
{
    uint64_t mtime = entry->mtime_s < 0 ? UINT64_MAX : (uint64_t)entry->mtime_s;
    int r = 0;
    (void)put_octal(ustar->mode, sizeof(ustar->mode), entry->mode & 07777);
    if (!put_octal(ustar->uid, sizeof(ustar->uid), entry->uid))
        r = add_number(pax, "uid", entry->uid);
    if (!put_octal(ustar->gid, sizeof(ustar->gid), entry->gid) && r == 0)
        r = add_number(pax, "gid", entry->gid);
    if (r == 0)
        r = put_size(ustar, pax, entry, form);
    if ((!put_octal(ustar->mtime, sizeof(ustar->mtime), mtime) || entry->mtime_ns) && r == 0)
        r = add_time(pax, "mtime", entry->mtime_s, entry->mtime_ns);
    return r;
}

static int put_device(struct ustar *ustar, const struct tar_entry *entry)
{
    bool is_device = S_ISCHR(entry->mode) || S_ISBLK(entry->mode);
    bool major_fits =
        put_octal(ustar->dev_major, sizeof(ustar->dev_major), is_device ? entry->dev_major : 0);
    bool minor_fits =
        put_octal(ustar->dev_minor, sizeof(ustar->dev_minor), is_device ? entry->dev_minor : 0);
    return major_fits && minor_fits ? 0 : -EINVAL;
}

static int put_names(struct ustar *ustar, struct buf *pax, const struct names *names,
                     const struct form *form)
{
    const char *name = buf_string(&names->name);
    const char *link_name = buf_string(&names->link_name);
    if (form->is_sparse)
        return put_sparse_name(ustar, pax, name);
    return add_names(pax, put_name(ustar, name) ? NULL : name,
                     put_link_name(ustar, link_name) ? NULL : link_name);
}

static int add_xattrs(struct buf *pax, const struct tar_entry *entry, const struct form *form)
{
    int r = 0;
    for (size_t i = 0; r == 0 && !form->no_xattrs && i < entry->xattr_count; i++)
        r = add_xattr(pax, &entry->xattrs[i]);
    for (size_t i = 0; r == 0 && form->acl_text && i < entry->xattr_count; i++)
        r = add_acl(pax, &entry->xattrs[i]);
    return r;
}

/* Fills the member's own header, and pax with the records it needs besides. */
static int make_member(struct ustar *ustar, struct buf *pax, const char *prefix,
                       const struct tar_entry *entry, const struct form *form)
{
    struct names names cleanup(names_done) = {
        .name.max_bytes = pax->max_bytes,
        .link_name.max_bytes = pax->max_bytes,
    };
    int r = names_fill(&names, prefix, entry);
    if (r < 0)
        return r;
    put_magic(ustar);
    ustar->type = type_of(entry);
    r = put_names(ustar, pax, &names, form);
    if (r == 0)
        r = put_numbers(ustar, pax, entry, form);
    if (r == 0)
        r = put_device(ustar, entry);
    if (r == 0)
        r = add_xattrs(pax, entry, form);
    put_checksum(ustar);
    return r;
}

/* The header that goes before the records. */
static void make_pax(struct ustar *ustar, size_t pax_bytes)
{
    put_magic(ustar);
    ustar->type = 'x';
    (void)put_name(ustar, "PaxHeaders/0");
    (void)put_octal(ustar->mode, sizeof(ustar->mode), 0644);
    (void)put_octal(ustar->uid, sizeof(ustar->uid), 0);
    (void)put_octal(ustar->gid, sizeof(ustar->gid), 0);
    (void)put_octal(ustar->size, sizeof(ustar->size), pax_bytes);
    (void)put_octal(ustar->mtime, sizeof(ustar->mtime), 0);
    (void)put_octal(ustar->dev_major, sizeof(ustar->dev_major), 0);
    (void)put_octal(ustar->dev_minor, sizeof(ustar->dev_minor), 0);
    put_checksum(ustar);
}

static bool can_be_written(const struct tar_entry *entry)
{
    bool is_link = entry->is_hard_link || S_ISLNK(entry->mode);
    bool is_root = entry->name[0] == '\0';
    return type_of(entry) && (!is_link || entry->link_target) && (!is_root || S_ISDIR(entry->mode));
}

/* Appends the records, where there are any, with their header, and the member's header. */
static int add_blocks(struct buf *out, const struct buf *pax, const struct ustar *member)
{
    size_t before = out->len;
    int r = 0;
    if (pax->len > 0) {
        struct ustar header = {0};
        make_pax(&header, pax->len);
        r = buf_add(out, &header, sizeof(header));
        if (r == 0)
            r = buf_add(out, pax->data, pax->len);
        if (r == 0)
            r = buf_add_zeros(out, tar_padding_bytes(pax->len));
    }
    if (r == 0)
        r = buf_add(out, member, sizeof(*member));
    if (r < 0)
        out->len = before;
    if (r < 0 && out->data)
        out->data[before] = '\0';
    return r;
}

static int write_form(struct buf *out, const char *prefix, const struct tar_entry *entry,
                      const struct form *form)
{
    if (!can_be_written(entry))
        return -EINVAL;
    struct buf pax cleanup_buf;
    buf_init(&pax, out->max_bytes);
    struct ustar member = {0};
    int r = make_member(&member, &pax, prefix, entry, form);
    return r < 0 ? r : add_blocks(out, &pax, &member);
}

int tar_header_write(struct buf *out, const char *prefix, const struct tar_entry *entry)
{
    assert(!prefix[0] || prefix[strlen(prefix) - 1] == '/');
    return write_form(out, prefix, entry, &(struct form){.acl_text = true});
}

/* Names as `tar -C DIR -c .` and the engine's archive calls write them. */
#define STORED_PREFIX "./"

int tar_header_write_stored(struct buf *out, const struct tar_entry *entry, uint64_t stored_bytes)
{
    struct form form = {
        .acl_text = true,
        .is_sparse = entry->extents && S_ISREG(entry->mode) && !entry->is_hard_link,
        .stored_bytes = stored_bytes,
    };
    return write_form(out, STORED_PREFIX, entry, &form);
}

/* Adds a record of exactly `bytes`, at least FILL_RECORD_MIN. */
#define FILL_RECORD_MIN 64
static int add_fill(struct buf *pax, size_t bytes)
{
    size_t before = pax->len;
    int r = buf_printf(pax, "%zu comment=in place of a file that is gone", bytes);
    while (r == 0 && pax->len - before < bytes - 1) {
        static const char spaces[] = "                                ";
        size_t left = bytes - 1 - (pax->len - before);
        r = buf_add(pax, spaces, left < sizeof(spaces) - 1 ? left : sizeof(spaces) - 1);
    }
    return r < 0 ? r : buf_add(pax, "\n", 1);
}

/* As many headers without records as fit; numbers that would need one go in as in GNU's format. */
static int add_bare(struct buf *out, struct ustar *member, const struct tar_entry *entry,
                    size_t bytes)
{
    put_number(member->uid, sizeof(member->uid), (int64_t)entry->uid);
    put_number(member->gid, sizeof(member->gid), (int64_t)entry->gid);
    put_number(member->mtime, sizeof(member->mtime), entry->mtime_s);
    put_checksum(member);
    size_t before = out->len;
    int r = 0;
    for (; r == 0 && bytes > 0; bytes -= sizeof(*member))
        r = buf_add(out, member, sizeof(*member));
    if (r < 0)
        out->len = before;
    if (r < 0 && out->data)
        out->data[before] = '\0';
    return r;
}

int tar_header_write_filler(struct buf *out, const struct tar_entry *directory, size_t bytes)
{
    assert(bytes % TAR_BLOCK_BYTES == 0);
    if (!S_ISDIR(directory->mode) || directory->is_hard_link)
        return -EINVAL;
    struct buf pax cleanup_buf;
    buf_init(&pax, out->max_bytes);
    struct ustar member = {0};
    struct form form = {.no_xattrs = true, .acl_text = true};
    int r = make_member(&member, &pax, STORED_PREFIX, directory, &form);
    if (r < 0)
        return r;
    size_t around = 2 * sizeof(member);
    if (bytes < around + pax.len + FILL_RECORD_MIN)
        return add_bare(out, &member, directory, bytes);
    r = add_fill(&pax, bytes - around - pax.len);
    return r < 0 ? r : add_blocks(out, &pax, &member);
}
