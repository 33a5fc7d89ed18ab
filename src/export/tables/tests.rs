use super::*;

const DIM: usize = 3;

fn rows(n: usize) -> (Vec<u64>, Vec<f32>) {
    let ids = (0..n as u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
    (ids, (0..n * DIM).map(|i| (i as f32 * 0.37).sin()).collect())
}

/// Writes `n` rows in two parts.
fn write(dir: &Path, n: usize, dtype: Dtype, formats: &[Format]) -> BTreeMap<String, String> {
    let shape = Shape { job: "shop".into(), table: "user/id".into(), dim: DIM, rows: Some(n as u64), dtype };
    let mut writer = TableWriter::create(dir, shape, formats).unwrap();
    let ((ids, vectors), half) = (rows(n), n / 2);
    writer.push(&ids[..half], &vectors[..half * DIM]).unwrap();
    writer.push(&ids[half..], &vectors[half * DIM..]).unwrap();
    writer.finish().unwrap()
}

fn read(path: &Path) -> (Vec<u64>, Vec<f32>) {
    let (mut ids, mut vectors) = (Vec::new(), Vec::new());
    read_rows(path, DIM, |more, values| {
        ids.extend_from_slice(more);
        vectors.extend_from_slice(values);
        Ok(())
    })
    .unwrap();
    (ids, vectors)
}

#[test]
fn every_format_holds_the_same_rows() {
    use Format::*;
    for n in [0, 1, 20_000] {
        let dir = tempfile::tempdir().unwrap();
        let files = write(dir.path(), n, Dtype::F32, &[Parquet, Safetensors, Keyvalue, Redis]);
        let (ids, vectors) = rows(n);
        let bytes = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
        assert_eq!(files["parquet"], "tables/user%2Fid.parquet");
        assert_eq!(read(&dir.path().join(&files["parquet"])), (ids.clone(), vectors.clone()));

        let content = bytes(&files["safetensors"]);
        let tensors = ::safetensors::SafeTensors::deserialize(&content).unwrap();
        assert_eq!(tensors.tensor("ids").unwrap().data(), bytemuck::cast_slice::<u64, u8>(&ids));
        assert_eq!(tensors.tensor("vectors").unwrap().shape(), [n, DIM]);
        assert_eq!(tensors.tensor("vectors").unwrap().data(), bytemuck::cast_slice::<f32, u8>(&vectors));

        assert_eq!(bytes(&format!("{}/key", files["keyvalue"])), bytemuck::cast_slice::<u64, u8>(&ids));
        assert_eq!(bytes(&format!("{}/emb_vector", files["keyvalue"])), bytemuck::cast_slice::<f32, u8>(&vectors));
        if n == 1 {
            let value: Vec<u8> = vectors.iter().flat_map(|value| value.to_le_bytes()).collect();
            let head = b"*3\r\n$3\r\nSET\r\n$14\r\nshop:user/id:0\r\n$12\r\n";
            assert_eq!(bytes(&files["redis"]), [head.as_slice(), &value, b"\r\n"].concat());
        }
    }
}

#[test]
fn quantized_numbers_are_as_near_as_their_step() {
    for (dtype, step) in [(Dtype::Fp16, 1.0 / 2048.0), (Dtype::Int8, 0.5 / 127.0)] {
        let dir = tempfile::tempdir().unwrap();
        let files = write(dir.path(), 100, dtype, &[Format::Parquet]);
        let (found, expected) = (read(&dir.path().join(&files["parquet"])), rows(100));
        assert_eq!(found.0, expected.0);
        for (row, exact) in found.1.chunks(DIM).zip(expected.1.chunks(DIM)) {
            let largest = exact.iter().fold(0f32, |max, value| max.max(value.abs()));
            assert!(row.iter().zip(exact).all(|(a, b)| (a - b).abs() <= 1.001 * step * largest), "{row:?} {exact:?}");
        }
        assert_ne!(found.1, expected.1);
    }
    assert_eq!((quantized::scale(&[0.0; 3]), quantized::quantized(0.0, 0.0)), (0.0, 0));
}

#[test]
fn every_format_that_can_holds_the_same_quantized_numbers() {
    use Format::{Parquet, Redis, Safetensors};
    for dtype in [Dtype::Fp16, Dtype::Int8] {
        let dir = tempfile::tempdir().unwrap();
        let files = write(dir.path(), 5, dtype, &[Parquet, Safetensors, Redis]);
        let bytes = |format: &str| std::fs::read(dir.path().join(&files[format])).unwrap();
        let (ids, vectors) = rows(5);
        let stored = as_stored(dtype, DIM, &vectors);
        assert_eq!(read(&dir.path().join(&files["parquet"])), (ids.clone(), stored.clone()));
        // As their readers get them: numbers, and a scale before those of int8.
        let halves = |bytes: &[u8]| -> Vec<f32> {
            bytes.chunks(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
        };
        let integers =
            |scale: f32, bytes: &[u8]| bytes.iter().map(|&b| f32::from(b as i8) * scale).collect::<Vec<f32>>();

        let content = bytes("safetensors");
        let tensors = ::safetensors::SafeTensors::deserialize(&content).unwrap();
        assert_eq!(tensors.tensor("ids").unwrap().data(), bytemuck::cast_slice::<u64, u8>(&ids));
        let numbers = tensors.tensor("vectors").unwrap();
        assert_eq!(numbers.shape(), [5, DIM]);
        let found = match dtype {
            Dtype::Int8 => {
                let scales: Vec<f32> = bytemuck::pod_collect_to_vec(tensors.tensor("scales").unwrap().data());
                numbers.data().chunks(DIM).zip(scales).flat_map(|(row, scale)| integers(scale, row)).collect()
            }
            _ => halves(numbers.data()),
        };
        assert_eq!(found, stored);

        let commands = bytes("redis");
        let value = match dtype {
            Dtype::Int8 => 4 + DIM,
            _ => 2 * DIM,
        };
        let last = &commands[commands.len() - 2 - value..commands.len() - 2];
        assert_eq!(commands[commands.len() - 4 - value - 1..][..3], format!("{value}\r\n").as_bytes()[..3]);
        let found = match dtype {
            Dtype::Int8 => integers(f32::from_le_bytes(last[..4].try_into().unwrap()), &last[4..]),
            _ => halves(last),
        };
        assert_eq!(found, stored[4 * DIM..]);
    }
}

#[test]
fn a_missing_row_and_a_format_that_cannot_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let shape = Shape { job: "j".into(), table: "t".into(), dim: DIM, rows: Some(2), dtype: Dtype::F32 };
    let error = TableWriter::create(dir.path(), shape.clone(), &[]).unwrap().finish().unwrap_err().to_string();
    assert!(error.contains("0 rows instead of 2"), "{error}");
    let quantized = Shape { dtype: Dtype::Int8, ..shape };
    let error = TableWriter::create(dir.path(), quantized, &[Format::Keyvalue]).err().unwrap().to_string();
    assert!(error.contains("`keyvalue` holds float32 only") && error.contains("`safetensors` or `redis`"), "{error}");
}

#[test]
fn tombstones_come_back() {
    let dir = tempfile::tempdir().unwrap();
    for ids in [vec![], vec![u64::MAX, 7]] {
        let path = dir.path().join("gone.parquet");
        write_tombstones(&path, &ids).unwrap();
        assert_eq!(read_tombstones(&path).unwrap(), ids);
    }
}
