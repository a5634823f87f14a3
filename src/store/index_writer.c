/* SPDX-License-Identifier: MIT */
#include "store/index_form.h"
#include "store/pagefile.h"

#include <inttypes.h>
#include <string.h>

#define CACHE "-8192" /* KiB */
#define SET_META "INSERT INTO meta VALUES(?1,?2)"

struct index_writer {
    sqlite3 *db;
    sqlite3_stmt *add;
    sqlite3_stmt *add_frame;
    sqlite3_stmt *set;
    char *path;
    struct buf record; /* of the entry that is being written */
    uint64_t entries;
    uint64_t last_id;
};

static int write_failed(struct index_writer *writer, struct fail *why)
{
    int error = index_form_errno(sqlite3_extended_errcode(writer->db));
    int system = sqlite3_system_errno(writer->db);
    if ((error == EIO || error == EBADMSG) && system > 0)
        error = system;
    return fail_set(why, error, "cannot write the index: %s", sqlite3_errmsg(writer->db));
}

static int run(struct index_writer *writer, const char *sql, struct fail *why)
{
    int r = sqlite3_exec(writer->db, sql, NULL, NULL, NULL);
    return r == SQLITE_OK ? 0 : write_failed(writer, why);
}

static int prepare_writer(struct index_writer *writer, struct fail *why)
{
    static const char add[] =
        "INSERT INTO entry VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17)";
    int r = run(writer, "BEGIN", why);
    for (size_t i = 0; r == 0 && i < INDEX_FORM_TABLES; i++)
        r = run(writer, index_form_schema[i], why);
    if (r < 0)
        return r;
    if (sqlite3_prepare_v2(writer->db, add, -1, &writer->add, NULL) != SQLITE_OK ||
        sqlite3_prepare_v2(writer->db, "INSERT INTO frame VALUES(?1,?2)", -1, &writer->add_frame,
                           NULL) != SQLITE_OK ||
        sqlite3_prepare_v2(writer->db, SET_META, -1, &writer->set, NULL) != SQLITE_OK)
        return write_failed(writer, why);
    return 0;
}

/* Of no database yet. */
static struct index_writer *new_writer(const char *path)
{
    struct index_writer *writer cleanup_index_writer = calloc(1, sizeof(*writer));
    if (!writer || !(writer->path = strdup(path)))
        return NULL;
    buf_init(&writer->record, INDEX_FORM_RECORD_MAX_BYTES);
    return take(writer);
}

static int open_writer(struct index_writer *writer, struct fail *why)
{
    /* unix-none: whoever has the empty file at that path has it alone. */
    int r = sqlite3_open_v2(writer->path, &writer->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX,
                            "unix-none");
    if (r != SQLITE_OK)
        return writer->db ? write_failed(writer, why) : -ENOMEM;
    return run(writer,
               "PRAGMA page_size=4096; PRAGMA auto_vacuum=NONE; PRAGMA secure_delete=OFF;"
               "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA locking_mode=EXCLUSIVE;"
               "PRAGMA cache_size=" CACHE,
               why);
}

int index_writer_new(const char *path, struct index_writer **ret_writer, struct fail *why)
{
    struct index_writer *writer cleanup_index_writer = new_writer(path);
    if (!writer)
        return -ENOMEM;
    int r = open_writer(writer, why);
    if (r == 0)
        r = prepare_writer(writer, why);
    if (r < 0)
        return r;
    *ret_writer = take(writer);
    return 0;
}

static int close_database(struct index_writer *writer)
{
    (void)sqlite3_finalize(take(writer->add));
    (void)sqlite3_finalize(take(writer->add_frame));
    (void)sqlite3_finalize(take(writer->set));
    return sqlite3_close(take(writer->db));
}

void index_writer_free(struct index_writer *writer)
{
    if (!writer)
        return;
    (void)close_database(writer);
    buf_done(&writer->record);
    free(writer->path);
    free(writer);
}

/* Runs a statement whose parameters are bound. */
static int insert(struct index_writer *writer, sqlite3_stmt *stmt, struct fail *why)
{
    int r = sqlite3_step(stmt) == SQLITE_DONE ? 0 : write_failed(writer, why);
    (void)sqlite3_reset(stmt);
    (void)sqlite3_clear_bindings(stmt);
    return r;
}

static int bind_file(sqlite3_stmt *stmt, const struct index_entry *entry)
{
    const struct file *file = &entry->file;
    const struct file_stat *st = &file->stat;
    const struct {
        int column;
        int64_t value;
    } numbers[] = {
        {INDEX_COLUMN_MODE, st->mode},
        {INDEX_COLUMN_NLINK, st->nlink},
        {INDEX_COLUMN_UID, st->uid},
        {INDEX_COLUMN_GID, st->gid},
        {INDEX_COLUMN_SIZE, (int64_t)st->size_bytes},
        {INDEX_COLUMN_MTIME_S, st->mtime.s},
        {INDEX_COLUMN_MTIME_NS, st->mtime.ns},
        {INDEX_COLUMN_RDEV_MAJOR, st->rdev_major},
        {INDEX_COLUMN_RDEV_MINOR, st->rdev_minor},
        {INDEX_COLUMN_OFFSET, (int64_t)entry->offset},
    };
    int r = SQLITE_OK;
    for (size_t i = 0; r == SQLITE_OK && i < sizeof(numbers) / sizeof(numbers[0]); i++)
        r = sqlite3_bind_int64(stmt, numbers[i].column + 1, numbers[i].value);
    if (r == SQLITE_OK && file->link_target[0])
        r = index_form_bind(stmt, INDEX_COLUMN_LINK_TARGET, file->link_target,
                            strlen(file->link_target));
    if (r == SQLITE_OK && file->xattr_bytes)
        r = index_form_bind(stmt, INDEX_COLUMN_XATTRS, file->xattrs, file->xattr_bytes);
    return r;
}

static int bind_place(sqlite3_stmt *stmt, const struct index_entry *entry)
{
    int r = sqlite3_bind_int64(stmt, INDEX_COLUMN_ID + 1, (int64_t)entry->id);
    if (r == SQLITE_OK)
        r = sqlite3_bind_int64(stmt, INDEX_COLUMN_PARENT + 1, (int64_t)entry->parent);
    if (r == SQLITE_OK)
        r = sqlite3_bind_int64(stmt, INDEX_COLUMN_TARGET + 1, (int64_t)entry->target);
    if (r == SQLITE_OK)
        r = index_form_bind(stmt, INDEX_COLUMN_NAME, entry->file.name, strlen(entry->file.name));
    return r;
}

/* An entry that is a second name is bound without a file. */
static int insert_entry(struct index_writer *writer, const struct index_entry *entry,
                        struct fail *why)
{
    sqlite3_stmt *stmt = writer->add;
    bool is_first = entry->target == entry->id;
    int r = bind_place(stmt, entry);
    if (r == SQLITE_OK && is_first)
        r = bind_file(stmt, entry);
    if (r == SQLITE_OK && is_first && entry->file.is_sparse)
        r = index_form_bind(stmt, INDEX_COLUMN_EXTENTS, entry->file.extents,
                            entry->file.extent_count * INDEX_FORM_EXTENT_BYTES);
    return r == SQLITE_OK ? insert(writer, stmt, why) : write_failed(writer, why);
}

int index_add(struct index_writer *writer, const struct index_entry *entry,
              const struct file_extent *extents, struct fail *why)
{
    struct index_entry packed = *entry;
    bool is_next = writer->entries == 0 ? entry->id == 0 : entry->id > writer->last_id;
    if (strlen(entry->file.name) > NAME_MAX)
        return fail_set(why, ENAMETOOLONG, "a name of more than %d bytes", NAME_MAX);
    int r = is_next && index_form_is_placed(entry) ? 0 : -EBADMSG;
    if (r == 0 && entry->target == entry->id)
        r = index_form_is_sound(entry) ? index_form_pack(&writer->record, &packed.file, extents)
                                       : -EBADMSG;
    if (r == -EBADMSG)
        return fail_set(why, EINVAL, "entry %" PRIu64 " makes no sense", entry->id);
    if (r == 0)
        r = insert_entry(writer, &packed, why);
    if (r < 0)
        return r;
    writer->entries++;
    writer->last_id = entry->id;
    return 0;
}

int index_add_frame(struct index_writer *writer, uint64_t number,
                    const uint8_t key[INDEX_KEY_BYTES], struct fail *why)
{
    if (number > INT64_MAX ||
        sqlite3_bind_int64(writer->add_frame, 1, (int64_t)number) != SQLITE_OK ||
        sqlite3_bind_blob(writer->add_frame, 2, key, INDEX_KEY_BYTES, SQLITE_STATIC) != SQLITE_OK)
        return fail_set(why, EINVAL, "a frame of number %" PRIu64, number);
    return insert(writer, writer->add_frame, why);
}

static int set_number(struct index_writer *writer, const char *key, uint64_t value,
                      struct fail *why)
{
    int r = sqlite3_bind_text(writer->set, 1, key, -1, SQLITE_STATIC);
    if (r == SQLITE_OK)
        r = sqlite3_bind_int64(writer->set, 2, (int64_t)value);
    return r == SQLITE_OK ? insert(writer, writer->set, why) : write_failed(writer, why);
}

static int set_bytes(struct index_writer *writer, const char *key, const void *data, size_t bytes,
                     struct fail *why)
{
    int r = sqlite3_bind_text(writer->set, 1, key, -1, SQLITE_STATIC);
    if (r == SQLITE_OK)
        r = sqlite3_bind_blob64(writer->set, 2, data, bytes, SQLITE_STATIC);
    return r == SQLITE_OK ? insert(writer, writer->set, why) : write_failed(writer, why);
}

static int write_about(struct index_writer *writer, const struct index_about *about,
                       struct fail *why)
{
    size_t consistency_bytes = strnlen(about->consistency, sizeof(about->consistency) - 1);
    int r = set_number(writer, "version", INDEX_VERSION, why);
    if (r == 0)
        r = set_number(writer, "archive_bytes", about->archive_bytes, why);
    if (r == 0)
        r = set_number(writer, "seal", about->seal, why);
    if (r == 0)
        r = set_number(writer, "taken", (uint64_t)about->taken_s, why);
    if (r == 0)
        r = set_number(writer, "entries", writer->entries, why);
    if (r == 0)
        r = set_bytes(writer, "sha256", about->sha256, sizeof(about->sha256), why);
    if (r == 0)
        r = set_bytes(writer, "consistency", about->consistency, consistency_bytes, why);
    return r;
}

static int complete(struct index_writer *writer, struct fail *why)
{
    if (close_database(writer) != SQLITE_OK)
        return fail_set(why, EIO, "cannot close the index");
    return pagefile_finish(writer->path, why);
}

int index_finish(struct index_writer *writer, const struct index_about *about, struct fail *why)
{
    int r = write_about(writer, about, why);
    if (r == 0)
        r = run(writer, "COMMIT", why);
    return r < 0 ? r : complete(writer, why);
}

/* ---- copying ------------------------------------------------------------------- */

static int copy_database(struct index *index, struct index_writer *writer, struct fail *why)
{
    int r = index_form_backup(index, writer->db);
    if (r != SQLITE_OK && index_form_errno(r) == EBADMSG) /* only what is read can be that */
        return index_form_damaged(why);
    return r == SQLITE_OK ? 0 : write_failed(writer, why);
}

static int set_anew(struct index_writer *writer, const struct index_about *about, struct fail *why)
{
    int r = run(writer, "BEGIN; DELETE FROM meta", why);
    if (r == 0 && sqlite3_prepare_v2(writer->db, SET_META, -1, &writer->set, NULL) != SQLITE_OK)
        r = write_failed(writer, why);
    writer->entries = about->entries;
    if (r == 0)
        r = write_about(writer, about, why);
    return r < 0 ? r : run(writer, "COMMIT", why);
}

int index_copy(struct index *index, const char *path, int64_t taken_s, const char *consistency,
               struct fail *why)
{
    struct index_about about;
    index_about(index, &about);
    about.taken_s = taken_s;
    memset(about.consistency, 0, sizeof(about.consistency));
    (void)strncpy(about.consistency, consistency, sizeof(about.consistency) - 1);
    struct index_writer *writer cleanup_index_writer = new_writer(path);
    if (!writer)
        return -ENOMEM;
    int r = open_writer(writer, why);
    if (r == 0)
        r = copy_database(index, writer, why);
    if (r == 0)
        r = set_anew(writer, &about, why);
    return r < 0 ? r : complete(writer, why);
}
