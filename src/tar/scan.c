/* SPDX-License-Identifier: MIT */
#include "tar/scan.h"

#include "base/buf.h"
#include "tar/header.h"

#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>

/* Attributes are at most 64 KiB each on Linux, names 4 KiB: real headers are far smaller. */
#define PAX_MAX_BYTES (1024 * 1024)

struct tar_scan {
    tar_scan_fn *fn;
    void *data;
    unsigned char block[TAR_BLOCK_BYTES];
    size_t block_bytes;    /* of the header that is coming in */
    struct buf pax;        /* records for the next member */
    size_t pax_left;       /* bytes of records still to come */
    uint64_t skip_left;    /* bytes of data and padding still to come */
    uint64_t end_bytes;    /* of zeros since the last member */
    uint64_t offset_bytes; /* pushed so far, for messages */
    uint64_t count;
    int64_t newest_s;
    uint32_t newest_ns;
};

/* Where things are in a header block: POSIX.1-2017 pax, "ustar Interchange Format". */
enum {
    NAME = 0,
    MODE = 100,
    UID = 108,
    GID = 116,
    SIZE = 124,
    MTIME = 136,
    CHECKSUM = 148,
    TYPE = 156,
    LINK_NAME = 157,
    MAGIC = 257,
    DEV_MAJOR = 329,
    DEV_MINOR = 337,
    PREFIX = 345,
    NAME_BYTES = 100,
    PREFIX_BYTES = 155,
    CHECKSUM_BYTES = 8,
    MAGIC_BYTES = 8,
};

struct tar_scan *tar_scan_new(tar_scan_fn *fn, void *data)
{
    struct tar_scan *scan = calloc(1, sizeof(*scan));
    if (!scan)
        return NULL;
    scan->fn = fn;
    scan->data = data;
    buf_init(&scan->pax, PAX_MAX_BYTES);
    return scan;
}

void tar_scan_free(struct tar_scan *scan)
{
    if (!scan)
        return;
    buf_done(&scan->pax);
    free(scan);
}

static int damaged(const struct tar_scan *scan, struct fail *why, const char *what)
{
    return fail_set(why, EILSEQ, "the tar stream is damaged near byte %llu: %s",
                    (unsigned long long)scan->offset_bytes, what);
}

/* GNU's base-256: two's complement, most significant byte first, below a marker bit. */
static int parse_base256(const unsigned char *field, size_t len, int64_t *ret)
{
    int64_t value = field[0] & 0x40 ? -1 : 0;
    value = value * 64 + (field[0] & 0x3f);
    for (size_t i = 1; i < len; i++)
        if (__builtin_mul_overflow(value, 256, &value) ||
            __builtin_add_overflow(value, field[i], &value))
            return -EILSEQ;
    *ret = value;
    return 0;
}

static int parse_octal(const unsigned char *field, size_t len, int64_t *ret)
{
    int64_t value = 0; /* at most 12 digits: no overflow */
    size_t i = 0;
    while (i < len && field[i] == ' ')
        i++;
    for (; i < len && field[i] >= '0' && field[i] <= '7'; i++)
        value = value * 8 + (field[i] - '0');
    for (; i < len; i++)
        if (field[i] != ' ' && field[i] != '\0')
            return -EILSEQ;
    *ret = value;
    return 0;
}

static int parse_number(const unsigned char *field, size_t len, int64_t *ret)
{
    return field[0] & 0x80 ? parse_base256(field, len, ret) : parse_octal(field, len, ret);
}

static int parse_unsigned(const unsigned char *field, size_t len, uint64_t max, uint64_t *ret)
{
    int64_t value = 0;
    int r = parse_number(field, len, &value);
    if (r < 0 || value < 0 || (uint64_t)value > max)
        return -EILSEQ;
    *ret = (uint64_t)value;
    return 0;
}

static bool checksum_fits(const unsigned char *block)
{
    uint64_t told = 0;
    if (parse_unsigned(block + CHECKSUM, CHECKSUM_BYTES, UINT32_MAX, &told) < 0)
        return false;
    uint64_t sum = CHECKSUM_BYTES * ' ';
    for (size_t i = 0; i < TAR_BLOCK_BYTES; i++)
        if (i < CHECKSUM || i >= CHECKSUM + CHECKSUM_BYTES)
            sum += block[i];
    return sum == told;
}

static int set_string(char **string, const char *value, size_t len)
{
    char *copy = strndup(value, len);
    if (!copy)
        return -ENOMEM;
    free(*string);
    *string = copy;
    return 0;
}

static int parse_name(const unsigned char *block, bool is_posix, struct tar_entry *entry)
{
    char name[PREFIX_BYTES + 1 + NAME_BYTES + 1];
    size_t len = 0;
    if (is_posix && block[PREFIX]) {
        len = strnlen((const char *)block + PREFIX, PREFIX_BYTES);
        memcpy(name, block + PREFIX, len);
        name[len++] = '/';
    }
    size_t more = strnlen((const char *)block + NAME, NAME_BYTES);
    memcpy(name + len, block + NAME, more);
    return set_string(&entry->name, name, len + more);
}

/* The file type a member's letter stands for; 0: none we know. */
static mode_t file_type(unsigned char type)
{
    static const struct {
        unsigned char letter;
        mode_t type;
    } types[] = {
        {'\0', S_IFREG}, {'0', S_IFREG}, {'1', S_IFREG}, {'2', S_IFLNK},
        {'3', S_IFCHR},  {'4', S_IFBLK}, {'5', S_IFDIR}, {'6', S_IFIFO},
    };
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
        if (types[i].letter == type)
            return types[i].type;
    return 0;
}

static int parse_numbers(const unsigned char *block, struct tar_entry *entry)
{
    uint64_t mode = 0;
    uint64_t major = 0;
    uint64_t minor = 0;
    if (parse_unsigned(block + MODE, 8, INT64_MAX, &mode) < 0 ||
        parse_unsigned(block + UID, 8, INT64_MAX, &entry->uid) < 0 ||
        parse_unsigned(block + GID, 8, INT64_MAX, &entry->gid) < 0 ||
        parse_unsigned(block + SIZE, 12, INT64_MAX, &entry->size_bytes) < 0 ||
        parse_number(block + MTIME, 12, &entry->mtime_s) < 0 ||
        parse_unsigned(block + DEV_MAJOR, 8, UINT32_MAX, &major) < 0 ||
        parse_unsigned(block + DEV_MINOR, 8, UINT32_MAX, &minor) < 0)
        return -EILSEQ;
    entry->mode = file_type(block[TYPE]) | (mode & 07777);
    entry->dev_major = (uint32_t)major;
    entry->dev_minor = (uint32_t)minor;
    return 0;
}

/* Fills in what the header block alone says. */
static int parse_header(const unsigned char *block, struct tar_entry *entry)
{
    bool is_posix = memcmp(block + MAGIC, "ustar\00000", MAGIC_BYTES) == 0;
    int r = parse_numbers(block, entry);
    if (r == 0)
        r = parse_name(block, is_posix, entry);
    entry->is_hard_link = block[TYPE] == '1';
    if (r == 0 && (block[TYPE] == '1' || block[TYPE] == '2'))
        r = set_string(&entry->link_target, (const char *)block + LINK_NAME,
                       strnlen((const char *)block + LINK_NAME, NAME_BYTES));
    return r;
}

/* A record's value; not NUL-terminated. */
struct value {
    const char *text;
    size_t len;
};

static int parse_decimal(struct value *value, uint64_t *ret)
{
    uint64_t number = 0;
    size_t i = 0;
    for (; i < value->len && value->text[i] >= '0' && value->text[i] <= '9'; i++)
        if (__builtin_mul_overflow(number, 10, &number) ||
            __builtin_add_overflow(number, (uint64_t)(value->text[i] - '0'), &number))
            return -EILSEQ;
    if (i == 0 || number > INT64_MAX)
        return -EILSEQ;
    *value = (struct value){value->text + i, value->len - i};
    *ret = number;
    return 0;
}

static int set_number(uint64_t *ret, struct value value)
{
    uint64_t number = 0;
    if (parse_decimal(&value, &number) < 0 || value.len > 0)
        return -EILSEQ;
    *ret = number;
    return 0;
}

static int set_name(char **string, struct value value)
{
    if (memchr(value.text, '\0', value.len))
        return -EILSEQ;
    return set_string(string, value.text, value.len);
}

static int apply_path(struct tar_entry *entry, struct value value)
{
    return set_name(&entry->name, value);
}

static int apply_link(struct tar_entry *entry, struct value value)
{
    return entry->link_target ? set_name(&entry->link_target, value) : 0;
}

static int apply_size(struct tar_entry *entry, struct value value)
{
    return set_number(&entry->size_bytes, value);
}

static int apply_uid(struct tar_entry *entry, struct value value)
{
    return set_number(&entry->uid, value);
}

static int apply_gid(struct tar_entry *entry, struct value value)
{
    return set_number(&entry->gid, value);
}

/* Digits past the ninth are dropped. */
static int parse_fraction(struct value value, uint32_t *ret_ns)
{
    uint32_t ns = 0;
    uint32_t unit = 100000000;
    for (size_t i = 0; i < value.len; i++, unit /= 10) {
        if (value.text[i] < '0' || value.text[i] > '9')
            return -EILSEQ;
        ns += unit * (uint32_t)(value.text[i] - '0');
    }
    *ret_ns = ns;
    return 0;
}

/* "-1.25" is 1.25 s before 1970: -2 s and 750000000 ns. */
static int apply_mtime(struct tar_entry *entry, struct value value)
{
    bool negative = value.len > 0 && value.text[0] == '-';
    if (negative)
        value = (struct value){value.text + 1, value.len - 1};
    uint64_t s = 0;
    uint32_t ns = 0;
    if (parse_decimal(&value, &s) < 0)
        return -EILSEQ;
    if (value.len > 0 && (value.text[0] != '.' ||
                          parse_fraction((struct value){value.text + 1, value.len - 1}, &ns) < 0))
        return -EILSEQ;
    entry->mtime_s = negative ? -(int64_t)s - (ns > 0) : (int64_t)s;
    entry->mtime_ns = negative && ns > 0 ? 1000000000 - ns : ns;
    return 0;
}

static int apply_record(struct tar_entry *entry, struct value key, struct value value)
{
    static const struct {
        const char *key;
        int (*apply)(struct tar_entry *entry, struct value value);
    } records[] = {
        {"path", apply_path}, {"linkpath", apply_link}, {"size", apply_size},
        {"uid", apply_uid},   {"gid", apply_gid},       {"mtime", apply_mtime},
    };
    if (value.len == 0) /* POSIX: the header's own value counts */
        return 0;
    for (size_t i = 0; i < sizeof(records) / sizeof(records[0]); i++)
        if (strlen(records[i].key) == key.len && !memcmp(records[i].key, key.text, key.len))
            return records[i].apply(entry, value);
    return 0;
}

/* Splits the next "LEN KEY=VALUE\n" off rest. */
static int next_record(struct value *rest, struct value *key, struct value *value)
{
    struct value tail = *rest;
    uint64_t len = 0;
    if (parse_decimal(&tail, &len) < 0 || len > rest->len)
        return -EILSEQ;
    size_t head = rest->len - tail.len;
    if (len < head + strlen(" k=\n") || tail.text[0] != ' ' || rest->text[len - 1] != '\n')
        return -EILSEQ;
    const char *start = tail.text + 1;
    const char *end = rest->text + len - 1;
    const char *equals = memchr(start, '=', (size_t)(end - start));
    if (!equals || equals == start)
        return -EILSEQ;
    *key = (struct value){start, (size_t)(equals - start)};
    *value = (struct value){equals + 1, (size_t)(end - equals - 1)};
    *rest = (struct value){rest->text + len, rest->len - len};
    return 0;
}

static int apply_records(const struct buf *pax, struct tar_entry *entry)
{
    struct value rest = {buf_string(pax), pax->len};
    int r = 0;
    while (r == 0 && rest.len > 0) {
        struct value key;
        struct value value;
        r = next_record(&rest, &key, &value);
        if (r == 0)
            r = apply_record(entry, key, value);
    }
    return r;
}

static void note_newest(struct tar_scan *scan, const struct tar_entry *entry)
{
    bool newer = entry->mtime_s > scan->newest_s ||
                 (entry->mtime_s == scan->newest_s && entry->mtime_ns > scan->newest_ns);
    if (scan->count++ > 0 && !newer)
        return;
    scan->newest_s = entry->mtime_s;
    scan->newest_ns = entry->mtime_ns;
}

static int begin_member(struct tar_scan *scan, struct fail *why)
{
    struct tar_entry entry cleanup_tar_entry = {0};
    int r = parse_header(scan->block, &entry);
    if (r == 0)
        r = apply_records(&scan->pax, &entry);
    if (r == 0 && S_ISREG(entry.mode) && !entry.is_hard_link)
        r = __builtin_add_overflow(entry.size_bytes, tar_padding_bytes(entry.size_bytes),
                                   &scan->skip_left)
                ? -EILSEQ
                : 0;
    else
        entry.size_bytes = 0;
    if (r == 0 && !entry.name[0])
        r = -EILSEQ;
    if (r < 0)
        return r == -EILSEQ ? damaged(scan, why, "a bad header") : r;
    buf_clear(&scan->pax);
    tar_entry_clean_name(entry.name);
    if (entry.is_hard_link)
        tar_entry_clean_name(entry.link_target);
    note_newest(scan, &entry);
    return scan->fn ? scan->fn(scan->data, &entry, why) : 0;
}

static int begin_pax(struct tar_scan *scan, struct fail *why)
{
    uint64_t size = 0;
    if (parse_unsigned(scan->block + SIZE, 12, PAX_MAX_BYTES, &size) < 0 || size == 0)
        return damaged(scan, why, "a pax header of an impossible size");
    scan->pax_left = size;
    return 0;
}

static bool is_zero(const unsigned char *bytes, size_t len)
{
    return len == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, len - 1) == 0);
}

/* What the header block that is now complete says. */
static int take_block(struct tar_scan *scan, struct fail *why)
{
    const unsigned char *block = scan->block;
    bool after_pax = scan->pax.len > 0;
    if (is_zero(block, TAR_BLOCK_BYTES) && !after_pax) {
        scan->end_bytes = TAR_BLOCK_BYTES;
        return 0;
    }
    if (!checksum_fits(block))
        return damaged(scan, why, "a header's checksum does not fit");
    if (memcmp(block + MAGIC, "ustar\00000", MAGIC_BYTES) != 0 &&
        memcmp(block + MAGIC, "ustar  ", MAGIC_BYTES) != 0)
        return damaged(scan, why, "a header without the mark of tar");
    if (block[TYPE] == 'x' && !after_pax)
        return begin_pax(scan, why);
    if (!file_type(block[TYPE]))
        return damaged(scan, why, "a member of an unknown type");
    return begin_member(scan, why);
}

/* The three below take bytes from the front and return how many. */

static ssize_t push_header(struct tar_scan *scan, const unsigned char *bytes, size_t len,
                           struct fail *why)
{
    size_t room = TAR_BLOCK_BYTES - scan->block_bytes;
    size_t n = len < room ? len : room;
    memcpy(scan->block + scan->block_bytes, bytes, n);
    scan->block_bytes += n;
    if (scan->block_bytes < TAR_BLOCK_BYTES)
        return (ssize_t)n;
    scan->block_bytes = 0;
    int r = take_block(scan, why);
    return r < 0 ? r : (ssize_t)n;
}

static ssize_t push_pax(struct tar_scan *scan, const unsigned char *bytes, size_t len)
{
    size_t n = len < scan->pax_left ? len : scan->pax_left;
    int r = buf_add(&scan->pax, bytes, n);
    if (r < 0)
        return r;
    scan->pax_left -= n;
    if (scan->pax_left == 0)
        scan->skip_left = tar_padding_bytes(scan->pax.len);
    return (ssize_t)n;
}

static ssize_t push_end(struct tar_scan *scan, const unsigned char *bytes, size_t len,
                        struct fail *why)
{
    if (!is_zero(bytes, len))
        return damaged(scan, why, "more than zeros follows its end");
    scan->end_bytes += len;
    return (ssize_t)len;
}

static ssize_t push_some(struct tar_scan *scan, const unsigned char *bytes, size_t len,
                         struct fail *why)
{
    if (scan->end_bytes)
        return push_end(scan, bytes, len, why);
    if (scan->pax_left)
        return push_pax(scan, bytes, len);
    if (!scan->skip_left)
        return push_header(scan, bytes, len, why);
    size_t n = len < scan->skip_left ? len : (size_t)scan->skip_left;
    scan->skip_left -= n;
    return (ssize_t)n;
}

int tar_scan_push(struct tar_scan *scan, const void *bytes, size_t len, struct fail *why)
{
    const unsigned char *at = bytes;
    while (len > 0) {
        ssize_t n = push_some(scan, at, len, why);
        if (n < 0)
            return (int)n;
        at += n;
        len -= (size_t)n;
        scan->offset_bytes += (uint64_t)n;
    }
    return 0;
}

int tar_scan_finish(const struct tar_scan *scan, struct fail *why)
{
    if (scan->end_bytes >= TAR_END_BYTES)
        return 0;
    return fail_set(why, EILSEQ, "the tar stream is cut short after %llu bytes and %llu members",
                    (unsigned long long)scan->offset_bytes, (unsigned long long)scan->count);
}

uint64_t tar_scan_count(const struct tar_scan *scan)
{
    return scan->count;
}

void tar_scan_newest(const struct tar_scan *scan, int64_t *ret_s, uint32_t *ret_ns)
{
    *ret_s = scan->newest_s;
    *ret_ns = scan->newest_ns;
}
